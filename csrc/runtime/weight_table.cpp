// WeightTable: what may be registered as a live tensor.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/weight_table.h"

#include <utility>

#include "base/checked_math.h"
#include "base/dtype.h"
#include "runtime/base_reader.h"
#include "runtime/live_access.h"

namespace shira {
namespace {

Result<void> check_spec(const TensorSpec& spec) {
  const auto invalid = [&](std::string message) {
    return Error{Status::INVALID_ARGUMENT, std::move(message), {}, spec.name};
  };
  if (spec.name.empty()) return invalid("the tensor has no name");
  if (spec.dims.empty() || spec.dims.size() > kMaxRank) {
    return invalid("the tensor has rank " + std::to_string(spec.dims.size()) + ", expected 1 to " +
                   std::to_string(kMaxRank));
  }
  uint64_t numel = 1;
  for (const uint32_t dim : spec.dims) {
    if (!checked_mul(numel, dim, &numel) || numel == 0 || numel > UINT32_MAX) {
      return invalid("shape " + shape_text(spec.dims) +
                     " is empty or has more than 4294967295 elements");
    }
  }
  if (spec.data == nullptr || !spec.region) return invalid("the tensor has no memory");
  const size_t element_bytes = dtype_bytes(spec.dtype);
  if (reinterpret_cast<uintptr_t>(spec.data) % element_bytes != 0) {
    return invalid("the tensor's address is not aligned to its " + std::to_string(element_bytes) +
                   "-byte elements");
  }
  return {};
}

uint32_t plane_of(const TensorSpec& spec) { return spec.layout ? spec.layout->plane() : 0; }

Result<void> named(const TensorSpec& spec, Result<void> answer) {
  if (!answer.ok()) answer.error().tensor = spec.name;
  return answer;
}

}  // namespace

uint64_t logical_bytes(const TensorSpec& spec) {
  uint64_t bytes = dtype_bytes(spec.dtype);
  for (const uint32_t dim : spec.dims) bytes *= dim;
  return bytes;
}

uint64_t live_bytes(const TensorSpec& spec) {
  return spec.layout ? spec.layout->size_bytes() : logical_bytes(spec);
}

std::string shape_text(const std::vector<uint32_t>& dims) {
  std::string text = "[";
  for (size_t i = 0; i < dims.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(dims[i]);
  return text + "]";
}

Result<void> WeightTable::add(std::vector<TensorSpec> specs) {
  SHIRA_ASSIGN(const ProcessMaps maps, ProcessMaps::read());
  WeightTable added;
  for (TensorSpec& spec : specs) {
    SHIRA_TRY(check_spec(spec));
    SHIRA_TRY(check_free(spec));
    SHIRA_TRY(added.check_free(spec));
    SHIRA_TRY(named(spec, spec.region->attach(maps, spec.data, live_bytes(spec))));
    Hash128 digest{};
    if (!spec.region->has_source()) {
      SHIRA_ASSIGN(digest, digest_of_elements(spec));
    }
    added.insert(std::move(spec), digest);
  }
  for (size_t i = 0; i < added.specs_.size(); ++i)
    insert(std::move(added.specs_[i]), added.digests_[i]);
  return {};
}

Result<void> WeightTable::check_live(const std::vector<uint32_t>& tensor_indices) const {
  if (tensor_indices.empty()) return {};
  std::vector<AddressRange> ranges;
  for (const uint32_t i : tensor_indices) {
    specs_[i].region->add_watched(specs_[i].data, live_bytes(specs_[i]), &ranges);
  }
  SHIRA_ASSIGN(const ProcessMaps maps, ProcessMaps::read_near(std::move(ranges)));
  for (const uint32_t i : tensor_indices) {
    const TensorSpec& spec = specs_[i];
    SHIRA_TRY(named(spec, spec.region->check(maps, spec.data, live_bytes(spec))));
  }
  return {};
}

int64_t WeightTable::find(const std::string& name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? -1 : static_cast<int64_t>(found->second);
}

Result<void> WeightTable::check_free(const TensorSpec& spec) const {
  if (by_name_.count(spec.name) != 0) {
    return Error{Status::DUPLICATE_NAME, "a tensor of this name was added before", {}, spec.name};
  }
  const auto begin = reinterpret_cast<uintptr_t>(spec.data);
  const uintptr_t end = begin + live_bytes(spec);
  const uint32_t plane = plane_of(spec);
  // The first one behind; the one before it may overlap.
  auto neighbour = spans_.lower_bound({plane, end});
  if (neighbour == spans_.begin()) return {};
  --neighbour;
  if (neighbour->first.first != plane) return {};
  const bool equal = neighbour->first.second == begin && neighbour->second.end == end;
  if (neighbour->second.end <= begin || equal) return {};
  return Error{
      Status::SHARED_STORAGE,
      "the tensor's memory partly overlaps that of " + specs_[neighbour->second.tensor_index].name,
      {},
      spec.name};
}

void WeightTable::insert(TensorSpec spec, const Hash128& digest) {
  const auto tensor_index = static_cast<uint32_t>(specs_.size());
  const auto begin = reinterpret_cast<uintptr_t>(spec.data);
  const auto [span, is_new] = spans_.emplace(std::pair(plane_of(spec), begin),
                                             Span{begin + live_bytes(spec), tensor_index});
  if (!is_new) {
    // The same bytes under two names: each of them says so.
    TensorSpec& other = specs_[span->second.tensor_index];
    if (other.shares_storage_with.empty()) other.shares_storage_with = spec.name;
    if (spec.shares_storage_with.empty()) spec.shares_storage_with = other.name;
  }
  by_name_.emplace(spec.name, tensor_index);
  specs_.push_back(std::move(spec));
  digests_.push_back(digest);
}

}  // namespace shira
