// From a weight's key to its entry in the cache, and from there to its layout.
// SPDX-License-Identifier: Apache-2.0
#include "executorch/packed_weights.h"

#include <algorithm>
#include <optional>
#include <thread>
#include <utility>

#include "attach/packed_memory.h"
#include "attach/packed_tensor.h"
#include "base/thread_pool.h"
#include "packed/calibrate.h"
#include "runtime/element_ops.h"

namespace shira {
namespace {

/// A weight that the cache has an entry for.
struct Candidate {
  const ProgramWeight* weight = nullptr;
  const PackedCacheEntry* entry = nullptr;
  std::optional<PackedLayout> layout;
  std::string why_not;  // there is no layout
};

/// REQUIRES: there is no reason why it cannot be changed, so that it has one.
Dtype dtype_of(const ProgramWeight& weight) { return weight.dtype.value_or(Dtype::f32); }

/// XNNPACK names a packed weight by its codes, and by its bias unless scales follow the rows.
const PackedCacheEntry* find_entry(const PackedCacheIndex& index, const ProgramWeight& weight) {
  const bool has_row_scales = !is_float(dtype_of(weight)) && weight.group_length == 0;
  return index.find(has_row_scales ? weight.key : weight.key + weight.bias_key);
}

std::string why_not_loaded(const ProgramWeight& weight, const std::vector<std::string>& methods) {
  const auto is_loaded = [&](const std::string& name) {
    return std::find(methods.begin(), methods.end(), name) != methods.end();
  };
  if (std::any_of(weight.methods.begin(), weight.methods.end(), is_loaded)) return {};
  return "none of the methods that use it was loaded";
}

/// A few threads: each reads as fast as memory gives.
Result<std::shared_ptr<ThreadPool>> make_pool() {
  constexpr uint32_t kMaxThreads = 4;
  return ThreadPool::make(std::clamp(std::thread::hardware_concurrency(), 1U, kMaxThreads));
}

Result<void> find_layout(Candidate* candidate, const PackedMemory& memory,
                         const std::vector<std::shared_ptr<PrivateMapping>>& files) {
  std::vector<ByteReader> readers;
  readers.reserve(files.size());
  for (const auto& file : files) readers.emplace_back(file->data(), file->size_bytes());
  SHIRA_ASSIGN(const BaseMatrix base, view_weight(*candidate->weight, readers));
  const DefaultFloatMode float_mode;
  Result<PackedLayout> layout =
      calibrate(base, memory.data() + candidate->entry->offset_bytes, candidate->entry->size_bytes);
  if (layout.ok()) {
    candidate->layout = layout.value();
  } else {
    candidate->why_not = layout.error().message;
  }
  const WeightBytes& codes = candidate->weight->codes;
  files[codes.file_index]->give_back(base.codes, codes.range.size_bytes);
  return {};
}

/// One entry for several weights: XNNPACK takes weights with the same codes for equal, and computes
/// all of them with the scales and biases of the first. Changing the entry changes all of them.
void refuse_collisions(std::vector<Candidate>* candidates) {
  for (Candidate& candidate : *candidates) {
    if (candidate.layout) continue;
    const std::string difference = candidate.why_not;
    for (Candidate& other : *candidates) {
      if (other.entry != candidate.entry || !other.layout) continue;
      candidate.why_not = "XNNPACK computes with the packed weight of '" + other.weight->name +
                          "' in its place, which has the same codes: " + difference;
      other.why_not = "XNNPACK computes '" + candidate.weight->name +
                      "' with it, too, which has the same codes but not the same scales and biases";
    }
  }
}

}  // namespace

Result<PackedWeights> find_packed_weights(const PackedCache& cache, const ProgramWeights& weights,
                                          const std::vector<std::shared_ptr<PrivateMapping>>& files,
                                          const std::vector<std::string>& methods) {
  cache.keep_size();
  SHIRA_ASSIGN(const std::shared_ptr<PackedMemory> memory, PackedMemory::map(cache.descriptor()));
  PackedWeights found;
  SHIRA_ASSIGN(found.index, PackedCacheIndex::read(memory->data(), memory->size_bytes(),
                                                   "XNNPACK's packed weights"));
  std::vector<Candidate> candidates;
  uint64_t total_bytes = 0;
  for (const ProgramWeight& weight : weights.weights) {
    if (weight.storage != WeightStorage::packed) continue;
    std::string reason = weight.why_not;
    if (reason.empty()) reason = why_not_loaded(weight, methods);
    const PackedCacheEntry* entry = reason.empty() ? find_entry(found.index, weight) : nullptr;
    if (reason.empty() && entry == nullptr) {
      reason = "XNNPACK has packed it into memory of its own: this processor has no kernel for " +
               std::string(dtype_name(dtype_of(weight))) + " weights, or its codes have no name";
    }
    if (entry == nullptr) {
      found.unpatchable.emplace(weight.name, reason);
      continue;
    }
    candidates.push_back({&weight, entry, {}, {}});
    total_bytes += entry->size_bytes;
  }
  SHIRA_ASSIGN(const std::shared_ptr<ThreadPool> pool, make_pool());
  SHIRA_TRY(pool->run(candidates.size(), total_bytes, [&](size_t i) -> Result<void> {
    return find_layout(&candidates[i], *memory, files);
  }));
  refuse_collisions(&candidates);
  for (const Candidate& candidate : candidates) {
    const ProgramWeight& weight = *candidate.weight;
    if (!candidate.layout || !candidate.why_not.empty()) {
      found.unpatchable.emplace(weight.name, candidate.why_not);
      continue;
    }
    const std::shared_ptr<PrivateMapping>& file = files[weight.codes.file_index];
    PackedSource source{std::shared_ptr<const File>(file, &file->file()), file->state(),
                        weight.codes.range.offset_bytes, weight.code_bias};
    found.specs.push_back(make_packed_tensor(weight.name, *candidate.layout, memory,
                                             candidate.entry->offset_bytes, std::move(source)));
  }
  return found;
}

}  // namespace shira
