// Comparing with the source, dropping the pages, and putting back what a failure left half done.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/hard_revert.h"

#include <algorithm>
#include <cstring>

#include "runtime/base_reader.h"
#include "runtime/element_ops.h"
#include "runtime/live_access.h"

namespace shira {
namespace {

constexpr uint64_t kChunkBytes = uint64_t{1} << 20;  // a multiple of every element size

uint64_t count_differing(const uint8_t* a, const uint8_t* b, uint64_t size_bytes,
                         size_t element_bytes) {
  if (std::memcmp(a, b, size_bytes) == 0) return 0;
  uint64_t count = 0;
  for (uint64_t offset = 0; offset < size_bytes; offset += element_bytes) {
    count += std::memcmp(a + offset, b + offset, element_bytes) != 0;
  }
  return count;
}

}  // namespace

Result<void> HardRevert::check() {
  SHIRA_TRY(find_tensors());
  std::vector<uint32_t> indices;
  uint64_t total_bytes = 0;
  for (const Standing& tensor : tensors_) {
    indices.push_back(tensor.tensor_index);
    total_bytes += logical_bytes(weights_.specs()[tensor.tensor_index]);
  }
  SHIRA_TRY(weights_.check_live(indices));
  SHIRA_TRY(pool_.run(tensors_.size(), total_bytes,
                      [&](size_t i) { return compare_with_source(&tensors_[i]); }));
  for (const Standing& tensor : tensors_) elements_changed_ += tensor.elements_changed;
  return {};
}

Result<void> HardRevert::find_tensors() {
  const std::vector<TensorSpec>& specs = weights_.specs();
  for (uint32_t i = 0; i < specs.size(); ++i) {
    Region* region = specs[i].region.get();
    if (!region->has_source()) {
      if (from_.find(i) == nullptr) continue;
      return Error{
          Status::NOT_SUPPORTED, "this memory has no source file to revert to", {}, specs[i].name};
    }
    tensors_.push_back({i});
    if (std::find(regions_.begin(), regions_.end(), region) == regions_.end())
      regions_.push_back(region);
  }
  if (regions_.empty())
    return Error{Status::NOT_SUPPORTED, "no tensor has a source file to revert to"};
  return {};
}

Result<void> HardRevert::compare_with_source(Standing* tensor) const {
  const TensorSpec& spec = weights_.specs()[tensor->tensor_index];
  const uint64_t tensor_bytes = logical_bytes(spec);
  const uint64_t chunk_bytes = std::min(kChunkBytes, tensor_bytes);
  SHIRA_ASSIGN(Bytes source, Bytes::make(chunk_bytes));
  SHIRA_ASSIGN(Bytes copy, Bytes::make(spec.layout ? chunk_bytes : 0));
  Hasher128 hasher;
  for (uint64_t offset = 0; offset < tensor_bytes; offset += chunk_bytes) {
    const uint64_t size_bytes = std::min(chunk_bytes, tensor_bytes - offset);
    SHIRA_TRY(read_source(spec, offset, size_bytes, source.data()));
    SHIRA_TRY(access_live(spec, [&] {
      const uint8_t* live = spec.layout ? copy.data() : spec.data + offset;
      if (spec.layout) read_elements(spec, offset, size_bytes, copy.data());
      hasher.update(live, size_bytes);
      tensor->elements_changed +=
          count_differing(live, source.data(), size_bytes, dtype_bytes(spec.dtype));
    }));
  }
  tensor->digest = hasher.digest();
  return {};
}

Result<void> HardRevert::drop() {
  for (Region* region : regions_) {
    Result<void> dropped = region->hard_revert();
    if (dropped.ok()) continue;
    put_back();
    elements_changed_ = 0;
    for (const Standing& tensor : tensors_) elements_changed_ += is_as_before(tensor) ? 0 : 1;
    return dropped;
  }
  return {};
}

// But not into memory that has become somebody else's meanwhile, which may be why a region refused.
void HardRevert::put_back() const {
  for (const auto& patch : from_.patches) {
    if (!weights_.check_live({patch->tensor_index}).ok()) continue;
    const TensorSpec& spec = weights_.specs()[patch->tensor_index];
    const IndexList& list = *patch->positions->list;
    static_cast<void>(
        access_live(spec, [&] { store(kernels_, spec, list, whole(list), patch->values.get()); }));
  }
}

// False also where it cannot be read any more.
bool HardRevert::is_as_before(const Standing& tensor) const {
  const uint32_t i = tensor.tensor_index;
  if (!weights_.check_live({i}).ok()) return false;
  const Result<Hash128> digest = digest_of_elements(weights_.specs()[i]);
  return digest.ok() && digest.value() == tensor.digest;
}

void HardRevert::report(SwitchReport* report) const {
  report->tensors_matched = from_.patches.size();
  report->elements_changed = elements_changed_;
  for (const auto& patch : from_.patches) {
    report->pages_touched += patch->positions->pages.count();
  }
}

}  // namespace shira
