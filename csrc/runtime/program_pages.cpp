// Program: the pages that it makes private, and where originals stay.
// SPDX-License-Identifier: Apache-2.0
#include <set>

#include "base/fault_guard.h"
#include "runtime/page_budget.h"
#include "runtime/program_state.h"

namespace shira {

Result<AdapterPages> Program::adapter_pages(const std::string& name) const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  SHIRA_ASSIGN(const std::shared_ptr<BoundAdapter> adapter, state_->find(name));
  return count_pages(state_->weights, *adapter);
}

Result<ProgramMemory> Program::memory() {
  const GateReader reader(state_->gate);
  std::unique_lock<std::mutex> lock(state_->mutex);
  const std::vector<std::shared_ptr<BoundAdapter>> adapters = state_->all_adapters();
  const std::shared_ptr<const ActiveSet> active_set = state_->active;
  lock.unlock();
  SHIRA_ASSIGN(ProgramMemory memory, measure_memory(state_->weights, adapters, *active_set));
  const std::lock_guard<std::mutex> reads_lock(state_->reads_mutex);
  memory.source_read_bytes = state_->reads.read_bytes;
  memory.source_cold_bytes = state_->reads.cold_bytes;
  return memory;
}

Result<uint64_t> Program::release_pages() {
  const GateWriter writer(state_->gate);
  const FaultGuard guard;
  std::set<Region*> regions;
  uint64_t released_bytes = 0;
  for (const TensorSpec& spec : state_->weights.specs()) {
    if (!regions.insert(spec.region.get()).second) continue;
    SHIRA_ASSIGN(const uint64_t bytes, spec.region->release_pages());
    released_bytes += bytes;
  }
  return released_bytes;
}

void Program::set_max_dirty_bytes(uint64_t limit_bytes) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->max_dirty_bytes = limit_bytes;
}

uint64_t Program::max_dirty_bytes() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->max_dirty_bytes;
}

Result<void> Program::set_first_touch(FirstTouch first_touch) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  for (const TensorSpec& spec : state_->weights.specs()) {
    Result<void> set = spec.region->set_first_touch(first_touch);
    if (set.ok()) continue;
    for (const TensorSpec& other : state_->weights.specs())
      static_cast<void>(other.region->set_first_touch(state_->first_touch));
    return set;
  }
  state_->first_touch = first_touch;
  return {};
}

Result<void> Program::set_originals(Originals originals) {
  const GateWriter writer(state_->gate);
  std::unique_lock<std::mutex> lock(state_->mutex);
  if (originals == Originals::file) {
    for (const TensorSpec& spec : state_->weights.specs()) SHIRA_TRY(check_has_source(spec));
  }
  const std::shared_ptr<const ActiveSet> active_set = state_->active;
  lock.unlock();
  SHIRA_TRY(state_->load(*active_set));
  lock.lock();
  state_->originals = originals;
  lock.unlock();
  state_->drop_if_in_file();
  return {};
}

Originals Program::originals() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->originals;
}

FirstTouch Program::first_touch() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->first_touch;
}

}  // namespace shira
