// Binding: names, shapes, dtypes, and base values.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/binding.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "runtime/element_ops.h"
#include "runtime/index_set.h"

namespace shira {
namespace {

Result<void> check_match(const AdapterTensor& source, const TensorSpec& spec,
                         const std::string& file) {
  if (source.dims != spec.dims) {
    std::vector<uint32_t> transposed(spec.dims.rbegin(), spec.dims.rend());
    const char* hint = source.dims == transposed ? " (transposed)" : "";
    return Error{Status::SHAPE_MISMATCH,
                 "the adapter expects shape " + shape_text(source.dims) +
                     ", the program's tensor has " + shape_text(spec.dims) + hint,
                 file, source.name};
  }
  if (source.dtype != spec.dtype) {
    return Error{Status::DTYPE_MISMATCH,
                 std::string("the adapter expects dtype ") + dtype_name(source.dtype) +
                     ", the program's tensor has " + dtype_name(spec.dtype),
                 file, source.name};
  }
  if (!spec.shares_storage_with.empty()) {
    return Error{Status::SHARED_STORAGE,
                 "the tensor shares its storage with " + spec.shares_storage_with +
                     ", so patching one would change the other",
                 file, source.name};
  }
  return {};
}

// Says where the live values leave the saved ones.
Error changed_since_saved(const Bytes& live, const Bytes& saved, size_t element_bytes,
                          const IndexList& list) {
  uint64_t different_count = 0;
  uint64_t first_entry = 0;
  for (uint64_t i = list.entry_count; i-- > 0;) {
    if (std::memcmp(live.data() + i * element_bytes, saved.data() + i * element_bytes,
                    element_bytes) == 0)
      continue;
    ++different_count;
    first_entry = i;
  }
  const auto element_text = [&](const Bytes& bytes) {
    uint8_t big_endian[4];
    std::reverse_copy(bytes.data() + first_entry * element_bytes,
                      bytes.data() + (first_entry + 1) * element_bytes, big_endian);
    return "0x" + to_hex(big_endian, element_bytes);
  };
  return Error{Status::BASE_MISMATCH,
               std::to_string(different_count) + " of " + std::to_string(list.entry_count) +
                   " touched base values changed since they were saved; the first is flat index " +
                   std::to_string(position_at(list, first_entry)) + ", expected bits " +
                   element_text(saved) + ", found " + element_text(live)};
}

}  // namespace

Result<std::shared_ptr<BoundAdapter>> bind_adapter(std::shared_ptr<const AdapterFile> file,
                                                   const AddOptions& options,
                                                   const WeightTable& weights) {
  if (!file->is_bound() && !options.allow_unverified_base) {
    return Error{
        Status::UNVERIFIED_BASE,
        "the adapter carries no fingerprints of its base, so a wrong base would go unnoticed "
        "(allow_unverified_base accepts that)",
        file->path()};
  }
  auto adapter = std::make_shared<BoundAdapter>();
  adapter->name = options.name.empty() ? file->name() : options.name;
  for (const AdapterTensor& source : file->tensors()) {
    const int64_t found = weights.find(source.name);
    if (found < 0) {
      if (options.allow_partial) continue;
      return Error{Status::UNKNOWN_TENSOR,
                   "none of the program's " + std::to_string(weights.specs().size()) +
                       " tensors has this name",
                   file->path(), source.name};
    }
    BoundTensor bound;
    bound.source = &source;
    bound.tensor_index = static_cast<uint32_t>(found);
    const TensorSpec& spec = weights.specs()[bound.tensor_index];
    SHIRA_TRY(check_match(source, spec, file->path()));
    // The list lives in the file, which the pointer keeps alive.
    SHIRA_ASSIGN(bound.positions,
                 Positions::make(std::shared_ptr<const IndexList>(file, &source.index), spec));
    adapter->tensors.push_back(std::move(bound));
  }
  if (adapter->tensors.empty()) {
    return Error{Status::UNKNOWN_TENSOR,
                 "the program has none of the adapter's " + std::to_string(file->tensors().size()) +
                     " tensors",
                 file->path(), file->tensors().front().name};
  }
  std::sort(
      adapter->tensors.begin(), adapter->tensors.end(),
      [](const BoundTensor& a, const BoundTensor& b) { return a.tensor_index < b.tensor_index; });
  adapter->file = std::move(file);
  return adapter;
}

Result<std::shared_ptr<const Bytes>> check_base(const LiveWeights& live,
                                                const BoundAdapter& adapter,
                                                const BoundTensor& bound) {
  const TensorSpec& spec = live.table.specs()[bound.tensor_index];
  const IndexList& list = bound.source->index;
  const size_t element_bytes = dtype_bytes(spec.dtype);
  SHIRA_ASSIGN(Bytes base, Bytes::make(list.entry_count * element_bytes));
  gather(live.kernels, spec, list, base.data());
  if (const Patch* patch = live.active.find(bound.tensor_index); patch != nullptr) {
    copy_common(*patch->positions->list, patch->originals->data(), list, base.data(),
                element_bytes);
  }
  if (bound.originals) {
    if (std::memcmp(base.data(), bound.originals->data(), base.size()) == 0) return bound.originals;
    Error error = changed_since_saved(base, *bound.originals, element_bytes, list);
    error.file = adapter.file->path();
    error.tensor = spec.name;
    return error;
  }
  if (adapter.file->is_bound()) {
    const Hash128 found = hash128(base.data(), base.size());
    const Hash128& expected = bound.source->fingerprint;
    if (found != expected) {
      return Error{
          Status::BASE_MISMATCH,
          "the base values at the " + std::to_string(list.entry_count) +
              " touched positions are not those the adapter was made for: expected fingerprint " +
              to_hex(expected.data(), expected.size()) + ", found " +
              to_hex(found.data(), found.size()),
          adapter.file->path(), spec.name};
    }
  }
  return std::shared_ptr<const Bytes>(std::make_shared<Bytes>(std::move(base)));
}

}  // namespace shira
