// Adding up pages over regions, each counted once.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/page_budget.h"

#include <map>
#include <set>
#include <string>

#include "base/process_maps.h"

namespace shira {
namespace {

using Needs = std::map<const Region*, std::vector<PageNeed>>;

/// Of every region of the program, also those without a need.
Needs needs_of(const WeightTable& weights, const std::vector<ActiveMember>& next) {
  Needs needs;
  for (const TensorSpec& spec : weights.specs()) needs[spec.region.get()];
  for (const ActiveMember& member : next) {
    for (const BoundTensor& bound : member.adapter->tensors) {
      const TensorSpec& spec = weights.specs()[bound.tensor_index];
      needs[spec.region.get()].push_back({spec.data, &bound.positions->pages});
    }
  }
  return needs;
}

/// The bytes that would be private after a switch, or, without `with_needs`, that are.
Result<uint64_t> private_bytes(const Needs& needs, bool with_needs) {
  uint64_t total_bytes = 0;
  for (const auto& [region, of_region] : needs) {
    SHIRA_ASSIGN(const uint64_t bytes,
                 region->private_bytes_with(with_needs ? of_region : std::vector<PageNeed>{}));
    total_bytes += bytes;
  }
  return total_bytes;
}

}  // namespace

Result<void> check_dirty_limit(const WeightTable& weights, const std::vector<ActiveMember>& next,
                               uint64_t limit_bytes) {
  const Needs needs = needs_of(weights, next);
  SHIRA_ASSIGN(const uint64_t after_bytes, private_bytes(needs, true));
  if (after_bytes <= limit_bytes) return {};
  SHIRA_ASSIGN(const uint64_t before_bytes, private_bytes(needs, false));
  if (after_bytes == before_bytes) return {};  // a way back must stay open

  // The tensor that needs most of them is the one to name.
  const TensorSpec* largest = nullptr;
  uint64_t largest_bytes = 0;
  for (const ActiveMember& member : next) {
    for (const BoundTensor& bound : member.adapter->tensors) {
      const TensorSpec& spec = weights.specs()[bound.tensor_index];
      SHIRA_ASSIGN(const uint64_t with_bytes,
                   spec.region->private_bytes_with({{spec.data, &bound.positions->pages}}));
      SHIRA_ASSIGN(const uint64_t without_bytes, spec.region->private_bytes_with({}));
      if (largest != nullptr && with_bytes - without_bytes <= largest_bytes) continue;
      largest = &spec;
      largest_bytes = with_bytes - without_bytes;
    }
  }
  return Error{
      Status::DIRTY_LIMIT,
      "the switch needs private copies of " + std::to_string(largest_bytes / page_bytes()) +
          " more pages of this tensor, and of " +
          std::to_string((after_bytes - before_bytes) / page_bytes()) +
          " in all: private memory would grow from " + std::to_string(before_bytes) + " to " +
          std::to_string(after_bytes) + " bytes, and the limit is " + std::to_string(limit_bytes),
      {},
      largest == nullptr ? std::string() : largest->name};
}

AdapterPages count_pages(const WeightTable& weights, const BoundAdapter& adapter) {
  AdapterPages report;
  report.page_bytes = page_bytes();
  for (const BoundTensor& bound : adapter.tensors) {
    const TensorSpec& spec = weights.specs()[bound.tensor_index];
    const uint64_t in_page_bytes = reinterpret_cast<uintptr_t>(spec.data) % page_bytes();
    const uint64_t tensor_bytes = in_page_bytes + live_bytes(spec);
    report.tensors.push_back(TensorPages{spec.name, bound.positions->pages.count(),
                                         (tensor_bytes + page_bytes() - 1) / page_bytes()});
  }
  return report;
}

Result<ProgramMemory> measure_memory(const WeightTable& weights,
                                     const std::vector<std::shared_ptr<BoundAdapter>>& adapters,
                                     const ActiveSet& active) {
  ProgramMemory total;
  std::set<const Region*> regions;
  for (const TensorSpec& spec : weights.specs()) {
    if (!regions.insert(spec.region.get()).second) continue;
    SHIRA_ASSIGN(const RegionMemory memory, spec.region->memory());
    total.mapped_bytes += memory.mapped_bytes;
    total.private_bytes += memory.private_bytes;
    total.huge_bytes += memory.huge_bytes;
  }
  std::set<const Bytes*> originals;  // adapters of one mask share them
  for (const auto& adapter : adapters) {
    for (const BoundTensor& bound : adapter->tensors)
      originals.insert(bound.positions->originals.get());
  }
  for (const auto& patch : active.patches) originals.insert(patch->originals.get());
  originals.erase(nullptr);
  for (const Bytes* bytes : originals) total.originals_bytes += bytes->size();
  return total;
}

}  // namespace shira
