// Binding: names, shapes, dtypes, and base values.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/binding.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "runtime/base_reader.h"
#include "runtime/element_ops.h"
#include "runtime/index_set.h"
#include "runtime/live_access.h"

namespace shira {
namespace {

Result<void> check_match(const AdapterTensor& source, const TensorSpec& spec,
                         const std::string& file) {
  if (!is_float(source.dtype) && is_float(spec.dtype)) {
    return Error{Status::DTYPE_MISMATCH,
                 std::string("the adapter holds integer codes (") + dtype_name(source.dtype) +
                     ") for a quantized base, the program's tensor has " + dtype_name(spec.dtype),
                 file, source.name};
  }
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

// The base's values at the positions. Under a patch at the same positions they are its originals.
Result<std::shared_ptr<const Bytes>> base_at(const LiveWeights& live, const BoundTensor& bound) {
  const TensorSpec& spec = live.table.specs()[bound.tensor_index];
  const IndexList& list = *bound.positions->list;
  const size_t element_bytes = dtype_bytes(spec.dtype);
  const Patch* patch = live.active.find(bound.tensor_index);
  if (patch != nullptr && patch->positions == bound.positions) return patch->originals;
  SHIRA_ASSIGN(Bytes base, Bytes::make(list.entry_count * element_bytes));
  SHIRA_TRY(access_live(spec, [&] { gather(live.kernels, spec, list, whole(list), base.data()); }));
  if (patch != nullptr) {
    copy_common(*patch->positions->list, patch->originals->data(), list, base.data(),
                element_bytes);
  }
  return std::shared_ptr<const Bytes>(std::make_shared<Bytes>(std::move(base)));
}

Result<void> check_fingerprint(const LiveWeights& live, const BoundAdapter& adapter,
                               const BoundTensor& bound, const Bytes& base) {
  if (!adapter.source->is_bound) return {};
  const Hash128 found = hash128(base.data(), base.size());
  const Hash128& expected = bound.source->fingerprint;
  if (found == expected) return {};
  return Error{
      Status::BASE_MISMATCH,
      "the base values at the " + std::to_string(bound.positions->count()) +
          " touched positions are not those the adapter was made for: expected fingerprint " +
          to_hex(expected.data(), expected.size()) + ", found " +
          to_hex(found.data(), found.size()),
      adapter.source->file->path(), live.table.specs()[bound.tensor_index].name};
}

bool is_top_magnitude(const AdapterTensor& source) {
  return source.rule && source.rule->codec == IndexCodec::top_magnitude;
}

// The file says that both have the same rule.
bool has_same_rule(const BoundAdapter& a, const AdapterTensor& a_tensor, const BoundAdapter& b,
                   const AdapterTensor& b_tensor) {
  return a.source->file == b.source->file && a_tensor.rule && b_tensor.rule &&
         a_tensor.parts[0].index_number == b_tensor.parts[0].index_number;
}

// REQUIRES: the tensor has a rule.
Result<IndexList> expand(const BindContext& context, const BoundTensor& bound) {
  const MaskRule& rule = *bound.source->rule;  // NOLINT(bugprone-unchecked-optional-access)
  if (!is_top_magnitude(*bound.source)) return expand_mask(rule);
  const TensorSpec& spec = context.weights.specs()[bound.tensor_index];
  const Patch* patch = context.active.find(bound.tensor_index);
  // From a copy: the selection looks several times, and what is mapped from a file may change.
  const uint64_t size_bytes = logical_bytes(spec);
  SHIRA_ASSIGN(Bytes base, Bytes::make(size_bytes));
  SHIRA_TRY(BaseReader(spec, patch).read(0, size_bytes, base.data()));
  return select_top_magnitude(rule, spec.dtype, base.data());
}

Result<std::shared_ptr<const Positions>> positions_of(const BindContext& context,
                                                      const BoundAdapter& adapter,
                                                      const BoundTensor& bound) {
  const auto find_other = [&](const auto& is_same) -> std::shared_ptr<const Positions> {
    for (const auto& other : context.others) {
      const auto theirs = std::lower_bound(
          other->tensors.begin(), other->tensors.end(), bound.tensor_index,
          [](const BoundTensor& tensor, uint32_t i) { return tensor.tensor_index < i; });
      if (theirs != other->tensors.end() && theirs->tensor_index == bound.tensor_index &&
          is_same(*other, *theirs))
        return theirs->positions;
    }
    return nullptr;
  };
  // Finding a derived mask costs more than comparing positions.
  std::shared_ptr<const Positions> positions =
      find_other([&](const BoundAdapter& other, const BoundTensor& theirs) {
        return has_same_rule(adapter, *bound.source, other, *theirs.source);
      });
  if (positions) return positions;
  std::shared_ptr<const IndexList> list = bound.source->index;
  if (!list) {
    SHIRA_ASSIGN(IndexList expanded, expand(context, bound));
    list = std::make_shared<IndexList>(std::move(expanded));
  }
  positions = find_other([&](const BoundAdapter& /*other*/, const BoundTensor& theirs) {
    return is_same_list(*list, *theirs.positions->list);
  });
  if (positions) return positions;
  return Positions::make(std::move(list), context.weights.specs()[bound.tensor_index]);
}

Result<void> find_positions(const BindContext& context, BoundAdapter* adapter) {
  std::vector<uint32_t> read_tensors;
  for (const BoundTensor& bound : adapter->tensors) {
    if (is_top_magnitude(*bound.source)) read_tensors.push_back(bound.tensor_index);
  }
  SHIRA_TRY(context.weights.check_live(read_tensors));
  uint64_t work = adapter->source->entry_count();
  for (const uint32_t i : read_tensors) work += logical_bytes(context.weights.specs()[i]);
  return context.pool.run(adapter->tensors.size(), work, [&](size_t i) -> Result<void> {
    BoundTensor& bound = adapter->tensors[i];
    Result<std::shared_ptr<const Positions>> positions = positions_of(context, *adapter, bound);
    if (!positions.ok()) {
      Error error = positions.error();
      error.file = adapter->source->file->path();
      error.tensor = bound.source->name;
      return error;
    }
    bound.positions = std::move(positions.value());
    return {};
  });
}

}  // namespace

bool reads_base(const Adapter& source) {
  return std::any_of(source.tensors.begin(), source.tensors.end(), is_top_magnitude);
}

Result<std::shared_ptr<BoundAdapter>> bind_adapter(const std::shared_ptr<const Adapter>& source,
                                                   const AddOptions& options,
                                                   const BindContext& context) {
  const std::string& file = source->file->path();
  if (!source->is_bound && !options.allow_unverified_base) {
    return Error{
        Status::UNVERIFIED_BASE,
        "the adapter carries no fingerprints of its base, so a wrong base would go unnoticed "
        "(allow_unverified_base accepts that)",
        file};
  }
  if (source->tensors.empty()) {
    return Error{Status::UNKNOWN_TENSOR,
                 "the adapter has entries only in tiers of its file that were not opened", file};
  }
  auto adapter = std::make_shared<BoundAdapter>();
  adapter->name = options.name.empty() ? source->name : options.name;
  adapter->source = source;
  for (const AdapterTensor& tensor : source->tensors) {
    const int64_t found = context.weights.find(tensor.name);
    if (found < 0) {
      if (options.allow_partial) continue;
      return Error{Status::UNKNOWN_TENSOR,
                   "none of the program's " + std::to_string(context.weights.specs().size()) +
                       " tensors has this name",
                   file, tensor.name};
    }
    BoundTensor bound;
    bound.source = &tensor;
    bound.tensor_index = static_cast<uint32_t>(found);
    SHIRA_TRY(check_match(tensor, context.weights.specs()[bound.tensor_index], file));
    adapter->tensors.push_back(std::move(bound));
  }
  if (adapter->tensors.empty()) {
    return Error{Status::UNKNOWN_TENSOR,
                 "the program has none of the adapter's " + std::to_string(source->tensors.size()) +
                     " tensors",
                 file, source->tensors.front().name};
  }
  std::sort(
      adapter->tensors.begin(), adapter->tensors.end(),
      [](const BoundTensor& a, const BoundTensor& b) { return a.tensor_index < b.tensor_index; });
  // Every tensor fits, so a mask has no more entries than there are live weights.
  SHIRA_TRY(find_positions(context, adapter.get()));
  return adapter;
}

Result<void> check_saved_originals(const LiveWeights& live, const BoundAdapter& adapter,
                                   const BoundTensor& bound) {
  if (bound.has_checked_originals) return {};
  return check_fingerprint(live, adapter, bound, *bound.positions->originals);
}

Result<std::shared_ptr<const Bytes>> check_base(const LiveWeights& live,
                                                const BoundAdapter& adapter,
                                                const BoundTensor& bound) {
  SHIRA_ASSIGN(std::shared_ptr<const Bytes> base, base_at(live, bound));
  const std::shared_ptr<const Bytes>& saved = bound.positions->originals;
  if (!saved) {
    SHIRA_TRY(check_fingerprint(live, adapter, bound, *base));
    return base;
  }
  if (base != saved && std::memcmp(base->data(), saved->data(), base->size()) != 0) {
    const TensorSpec& spec = live.table.specs()[bound.tensor_index];
    Error error =
        changed_since_saved(*base, *saved, dtype_bytes(spec.dtype), *bound.positions->list);
    error.file = adapter.source->file->path();
    error.tensor = spec.name;
    return error;
  }
  SHIRA_TRY(check_saved_originals(live, adapter, bound));
  return saved;
}

}  // namespace shira
