// From a weight's key to its entry in the cache, and from there to its layout.
// SPDX-License-Identifier: Apache-2.0
#include "executorch/packed_weights.h"

#include <algorithm>
#include <map>
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

/// Biases that can be switched, by the weights that they are packed beside.
using Biases = std::map<std::string, const ProgramWeight*>;

/// Of those weights that can be; `unpatchable` gets the others, each with the reason.
Biases find_biases(const ProgramWeights& weights, std::map<std::string, std::string>* unpatchable) {
  Biases biases;
  for (const ProgramWeight& weight : weights.weights) {
    if (weight.storage != WeightStorage::packed_bias) continue;
    const auto obstacle = unpatchable->find(weight.beside);
    if (!weight.why_not.empty()) {
      unpatchable->emplace(weight.name, weight.why_not);
    } else if (obstacle != unpatchable->end()) {
      unpatchable->emplace(weight.name,
                           "it is packed beside " + weight.beside + ": " + obstacle->second);
    } else {
      biases.emplace(weight.beside, &weight);
    }
  }
  return biases;
}

PackedSource source_of(const ProgramWeight& weight,
                       const std::vector<std::shared_ptr<PrivateMapping>>& files) {
  const std::shared_ptr<PrivateMapping>& file = files[weight.codes.file_index];
  return {std::shared_ptr<const File>(file, &file->file()), file->state(),
          weight.codes.range.offset_bytes, weight.code_bias};
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
    const PackedCacheEntry* entry =
        reason.empty() ? found.index.find(packed_name(weight)) : nullptr;
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
    if (!candidate.why_not.empty())
      found.unpatchable.emplace(candidate.weight->name, candidate.why_not);
  }
  const Biases biases = find_biases(weights, &found.unpatchable);
  for (const Candidate& candidate : candidates) {
    if (!candidate.layout || !candidate.why_not.empty()) continue;
    const ProgramWeight& weight = *candidate.weight;
    const uint64_t offset_bytes = candidate.entry->offset_bytes;
    const auto bias = biases.find(weight.name);
    const bool has_bias = bias != biases.end();
    found.specs.push_back(make_packed_tensor(
        weight.name, *candidate.layout, memory, offset_bytes, source_of(weight, files),
        has_bias ? PackedBiases::a_tensor : PackedBiases::constant));
    if (has_bias) {
      found.specs.push_back(make_packed_bias(bias->second->name, *candidate.layout, memory,
                                             offset_bytes, source_of(*bias->second, files)));
    }
  }
  return found;
}

}  // namespace shira
