// Picking entries out of a file, a chunk at a time.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/originals.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "runtime/base_reader.h"
#include "runtime/index_set.h"

namespace shira {
namespace {

constexpr uint64_t kChunkBytes = uint64_t{256} << 10;  // a multiple of every element size

template <typename Cursor>
Result<void> pick(const TensorSpec& spec, Cursor cursor, uint8_t* out, SourceReads* reads) {
  const size_t element_bytes = dtype_bytes(spec.dtype);
  const uint64_t tensor_bytes = logical_bytes(spec);
  SHIRA_ASSIGN(Bytes chunk, Bytes::make(std::min(kChunkBytes, tensor_bytes)));
  while (!cursor.done()) {
    const uint64_t begin_bytes = cursor.start() * element_bytes / kChunkBytes * kChunkBytes;
    const uint64_t size_bytes = std::min<uint64_t>(chunk.size(), tensor_bytes - begin_bytes);
    reads->read_bytes += size_bytes;
    reads->cold_bytes += cold_source_bytes(spec, begin_bytes, size_bytes);
    SHIRA_TRY(read_source(spec, begin_bytes, size_bytes, chunk.data()));
    const uint64_t end_index = (begin_bytes + size_bytes) / element_bytes;
    while (!cursor.done() && cursor.start() < end_index) {
      const auto length =
          static_cast<uint32_t>(std::min<uint64_t>(cursor.length(), end_index - cursor.start()));
      std::memcpy(out + cursor.offset() * element_bytes,
                  chunk.data() + cursor.start() * element_bytes - begin_bytes,
                  length * element_bytes);
      cursor.consume(length);
    }
  }
  return {};
}

Result<std::shared_ptr<const Bytes>> read_originals(const WeightTable& weights, const Patch& patch,
                                                    SourceReads* reads) {
  const TensorSpec& spec = weights.specs()[patch.tensor_index];
  const IndexList& list = *patch.positions->list;
  SHIRA_ASSIGN(Bytes bytes, Bytes::make(list.entry_count * dtype_bytes(spec.dtype)));
  SHIRA_TRY(list.is_runs() ? pick(spec, index_set::RunCursor(list), bytes.data(), reads)
                           : pick(spec, index_set::EntryCursor(list), bytes.data(), reads));
  if (hash128(bytes.data(), bytes.size()) != patch.originals_hash) {
    return Error{
        Status::BASE_MISMATCH,
        "the base values that its file has now at the touched positions are not those that "
        "were there before",
        {},
        spec.name};
  }
  return std::shared_ptr<const Bytes>(std::make_shared<Bytes>(std::move(bytes)));
}

}  // namespace

Result<void> check_has_source(const TensorSpec& spec) {
  if (spec.region->has_source()) return {};
  return Error{Status::NOT_SUPPORTED,
               "this memory has no source file to read originals from",
               {},
               spec.name};
}

Result<void> load_originals(const WeightTable& weights, const ActiveSet& active,
                            SourceReads* reads) {
  for (const auto& patch : active.patches) {
    if (patch->originals) continue;
    SHIRA_ASSIGN(patch->originals, read_originals(weights, *patch, reads));
    patch->positions->originals = patch->originals;
  }
  return {};
}

Result<std::shared_ptr<const ActiveSet>> with_originals(
    const WeightTable& weights, const std::shared_ptr<const ActiveSet>& active,
    SourceReads* reads) {
  const auto has_originals = [](const auto& patch) { return patch->originals != nullptr; };
  if (std::all_of(active->patches.begin(), active->patches.end(), has_originals)) return active;
  auto whole = std::make_shared<ActiveSet>();
  whole->members = active->members;
  for (const auto& patch : active->patches) {
    auto copy = std::make_shared<Patch>();
    copy->tensor_index = patch->tensor_index;
    copy->tensor_name = patch->tensor_name;
    copy->dtype = patch->dtype;
    copy->positions = patch->positions;
    copy->values = patch->values;
    copy->originals = patch->originals;
    if (!copy->originals) {
      SHIRA_ASSIGN(copy->originals, read_originals(weights, *patch, reads));
    }
    whole->patches.push_back(std::move(copy));
  }
  return std::shared_ptr<const ActiveSet>(std::move(whole));
}

void drop_originals(const ActiveSet& active,
                    const std::vector<std::shared_ptr<BoundAdapter>>& adapters) {
  static_cast<void>(digest_of(active.patches));
  for (const auto& patch : active.patches) {
    if (!patch->originals) continue;
    patch->originals_hash = hash128(patch->originals->data(), patch->originals->size());
    patch->originals.reset();
    patch->positions->originals.reset();
  }
  for (const auto& adapter : adapters) {
    for (const BoundTensor& bound : adapter->tensors) {
      bound.positions->originals.reset();
      if (bound.exact) bound.exact->originals.reset();
    }
  }
}

}  // namespace shira
