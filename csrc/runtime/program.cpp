// Program: the life of a switch, from the gate to the new epoch.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/program.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <mutex>
#include <optional>
#include <set>

#include "base/fault_guard.h"
#include "base/thread_pool.h"
#include "kernels/dispatch.h"
#include "runtime/base_verifier.h"
#include "runtime/binding.h"
#include "runtime/element_ops.h"
#include "runtime/gate.h"
#include "runtime/hard_revert.h"
#include "runtime/originals.h"
#include "runtime/page_budget.h"
#include "runtime/patch.h"
#include "runtime/switch_plan.h"
#include "runtime/weight_table.h"

namespace shira {
namespace {

// Nanoseconds since the last lap.
class Stopwatch {
 public:
  uint64_t lap() {
    const auto now = std::chrono::steady_clock::now();
    const auto elapsed = now - std::exchange(last_, now);
    return static_cast<uint64_t>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(elapsed).count());
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

Error unknown_adapter(const std::string& name) {
  return Error{Status::UNKNOWN_ADAPTER, "no adapter \"" + name + "\" was added"};
}

Result<void> check_has_source(const TensorSpec& spec) {
  if (spec.region->has_source()) return {};
  return Error{Status::NOT_SUPPORTED,
               "this memory has no source file to read originals from",
               {},
               spec.name};
}

std::vector<Member> members_of(const ActiveSet& active_set) {
  std::vector<Member> members;
  for (const ActiveMember& member : active_set.members) {
    members.push_back(Member{member.adapter->name, member.scale});
  }
  return members;
}

}  // namespace

// Small strings and per-tensor records come from the ordinary allocator, whose failure ends the
// process; everything that grows with the weights or with a file is an Array and fails with
// OUT_OF_MEMORY.
struct Program::State {
  Gate gate;
  mutable std::mutex
      mutex;            // guards what follows; held briefly, and never while waiting for the gate
  WeightTable weights;  // changed only by the gate's writer, and only while there are no adapters
  std::map<std::string, std::shared_ptr<BoundAdapter>> adapters;
  std::shared_ptr<const ActiveSet> active =
      std::make_shared<ActiveSet>();  // replaced only by the gate's writer
  uint64_t epoch = 0;
  std::optional<PublicKey> required_key;  // every file of `adapters` passes it
  std::shared_ptr<ThreadPool> pool;
  uint64_t max_dirty_bytes = 0;  // 0: no limit
  FirstTouch first_touch = FirstTouch::automatic;
  Originals originals = Originals::memory;
  std::mutex reads_mutex;  // guards the next
  SourceReads reads;
  mutable std::mutex digest_mutex;  // guards the digests cached in patches

  Result<std::shared_ptr<BoundAdapter>> find(const std::string& name) const {
    const auto found = adapters.find(name);
    if (found == adapters.end()) return unknown_adapter(name);
    return found->second;
  }

  bool is_active(const BoundAdapter& adapter) const {
    return std::any_of(
        active->members.begin(), active->members.end(),
        [&](const ActiveMember& member) { return member.adapter.get() == &adapter; });
  }

  std::vector<std::shared_ptr<BoundAdapter>> all_adapters() const {
    std::vector<std::shared_ptr<BoundAdapter>> all;
    for (const auto& [name, adapter] : adapters) all.push_back(adapter);
    return all;
  }

  // What active patches lack is read: in place for the gate's writer, else into copies.
  Result<SourceReads> load(const ActiveSet& set);
  Result<std::shared_ptr<const ActiveSet>> loaded(const std::shared_ptr<const ActiveSet>& set);
  // REQUIRES: the caller is the gate's writer.
  void drop_if_in_file();

  Result<std::vector<ActiveMember>> resolve(const std::vector<Member>& members) const;
  Result<void> check_signed(const AdapterFile& file, std::optional<PublicKey>* passed,
                            std::unique_lock<std::mutex>* lock) const;
  void commit(std::shared_ptr<const ActiveSet> next, SwitchReport* report);
};

Program::Program() : state_(std::make_unique<State>()) {
  state_->pool = ThreadPool::make(1).value();
}

Program::~Program() = default;

Result<SourceReads> Program::State::load(const ActiveSet& set) {
  SourceReads now;
  const Result<void> loaded = load_originals(weights, set, &now);
  const std::lock_guard<std::mutex> lock(reads_mutex);
  reads.read_bytes += now.read_bytes;
  reads.cold_bytes += now.cold_bytes;
  if (!loaded.ok()) return loaded.error();
  return now;
}

Result<std::shared_ptr<const ActiveSet>> Program::State::loaded(
    const std::shared_ptr<const ActiveSet>& set) {
  SourceReads now;
  Result<std::shared_ptr<const ActiveSet>> whole = with_originals(weights, set, &now);
  const std::lock_guard<std::mutex> lock(reads_mutex);
  reads.read_bytes += now.read_bytes;
  reads.cold_bytes += now.cold_bytes;
  return whole;
}

void Program::State::drop_if_in_file() {
  std::unique_lock<std::mutex> lock(mutex);
  if (originals != Originals::file) return;
  const std::shared_ptr<const ActiveSet> active_set = active;
  const std::vector<std::shared_ptr<BoundAdapter>> all = all_adapters();
  lock.unlock();
  const std::lock_guard<std::mutex> digest_lock(digest_mutex);
  drop_originals(*active_set, all);
}

// However a switch ends.
struct Program::OriginalsDropper {
  State& state;
  ~OriginalsDropper() { state.drop_if_in_file(); }
};

// ---- The life of a switch ----

Result<SwitchReport> Program::switch_to(const std::vector<Member>& members, bool wait) {
  Stopwatch total;
  Stopwatch stage;
  SwitchReport report;
  const DefaultFloatMode float_mode;  // before the first look at a scale

  // 1. Alone at the weights.
  const GateWriter writer(state_->gate, wait);
  if (!writer.holds()) return Error{Status::BUSY, "a forward pass or another switch is in flight"};
  report.wait_ns = stage.lap();

  // 2. From which state to which?
  SHIRA_ASSIGN(std::vector<ActiveMember> next_members, state_->resolve(members));
  std::unique_lock<std::mutex> lock(state_->mutex);
  const std::shared_ptr<const ActiveSet> old_set = state_->active;
  const std::shared_ptr<ThreadPool> pool = state_->pool;
  const uint64_t max_dirty_bytes = state_->max_dirty_bytes;
  report.epoch = state_->epoch;
  lock.unlock();
  const auto same_member = [](const ActiveMember& a, const ActiveMember& b) {
    return a.adapter == b.adapter && a.scale == b.scale;
  };
  if (std::equal(next_members.begin(), next_members.end(), old_set->members.begin(),
                 old_set->members.end(), same_member)) {
    report.total_ns = total.lap();
    return report;
  }

  // 3. What can fail without a store.
  const OriginalsDropper dropper{*state_};
  SHIRA_ASSIGN(const SourceReads reads, state_->load(*old_set));
  report.source_read_bytes = reads.read_bytes;
  report.source_cold_bytes = reads.cold_bytes;
  if (max_dirty_bytes != 0)
    SHIRA_TRY(check_dirty_limit(state_->weights, next_members, max_dirty_bytes));
  const FaultGuard guard;
  SHIRA_ASSIGN(const kernels::KernelTable* kernels, kernels::active_kernels());
  SwitchPlan plan(state_->weights, *kernels, *pool, *old_set, std::move(next_members));
  const auto next_set = std::make_shared<ActiveSet>();
  SHIRA_TRY(plan.check_regions());
  SHIRA_TRY(plan.find_originals());
  report.check_ns = stage.lap();
  SHIRA_TRY(plan.build_patches());
  report.plan_ns = stage.lap();
  SHIRA_TRY(plan.prepare_pages());
  report.pages_ns = stage.lap();

  // 4. What may turn out wrong in the middle of the stores, and is undone then.
  SHIRA_TRY(plan.store());
  report.store_ns = stage.lap();
  plan.report(&report);
  *next_set = plan.commit();
  state_->commit(next_set, &report);
  state_->drop_if_in_file();
  report.total_ns = total.lap();
  return report;
}

// Members as the laws want them: known, finite, no scale 0, in the order of summation.
Result<std::vector<ActiveMember>> Program::State::resolve(
    const std::vector<Member>& members) const {
  const std::lock_guard<std::mutex> lock(mutex);
  std::vector<ActiveMember> resolved;
  for (size_t i = 0; i < members.size(); ++i) {
    const Member& member = members[i];
    SHIRA_ASSIGN(std::shared_ptr<BoundAdapter> adapter, find(member.name));
    const auto is_namesake = [&](const Member& other) { return other.name == member.name; };
    if (std::any_of(members.begin(), members.begin() + static_cast<std::ptrdiff_t>(i),
                    is_namesake)) {
      return Error{Status::INVALID_ARGUMENT, "adapter \"" + member.name + "\" is named twice"};
    }
    if (!std::isfinite(member.scale)) {
      return Error{Status::INVALID_ARGUMENT,
                   "the scale of adapter \"" + member.name + "\" is not finite"};
    }
    if (member.scale != 0.0F) resolved.push_back(ActiveMember{std::move(adapter), member.scale});
  }
  std::sort(resolved.begin(), resolved.end(), sums_before);
  return resolved;
}

// REQUIRES: the caller is the gate's writer. Weights changed exactly when a store changed one (law
// I10).
void Program::State::commit(std::shared_ptr<const ActiveSet> next, SwitchReport* report) {
  const std::lock_guard<std::mutex> lock(mutex);
  active = std::move(next);
  if (report->elements_changed > 0) ++epoch;
  report->epoch = epoch;
}

// ---- Back to the base by way of the operating system ----

Result<SwitchReport> Program::hard_revert() {
  Stopwatch total;
  Stopwatch stage;
  SwitchReport report;
  const DefaultFloatMode float_mode;  // a region may have to work out what lies beside elements
  const GateWriter writer(state_->gate);
  report.wait_ns = stage.lap();

  std::unique_lock<std::mutex> lock(state_->mutex);
  const std::shared_ptr<const ActiveSet> old_set = state_->active;
  const std::shared_ptr<ThreadPool> pool = state_->pool;
  lock.unlock();
  SHIRA_ASSIGN(const kernels::KernelTable* kernels, kernels::active_kernels());
  const FaultGuard guard;
  HardRevert revert(state_->weights, *kernels, *pool, *old_set);
  const std::shared_ptr<const ActiveSet> base = std::make_shared<ActiveSet>();
  SHIRA_TRY(revert.check());
  report.check_ns = stage.lap();

  const Result<void> dropped = revert.drop();
  report.store_ns = stage.lap();
  revert.report(&report);
  state_->commit(dropped.ok() ? base : old_set, &report);
  if (!dropped.ok()) return dropped.error();
  report.total_ns = total.lap();
  return report;
}

// ---- Tensors and adapters ----

Result<void> Program::add_tensor(TensorSpec spec) {
  std::vector<TensorSpec> specs;
  specs.push_back(std::move(spec));
  return add_tensors(std::move(specs));
}

Result<void> Program::add_tensors(std::vector<TensorSpec> specs) {
  const GateWriter writer(state_->gate);
  const std::lock_guard<std::mutex> lock(state_->mutex);
  if (!state_->adapters.empty()) {
    return Error{Status::NOT_SUPPORTED, "tensors must be added before the first adapter"};
  }
  for (const TensorSpec& spec : specs) {
    if (!spec.region) continue;
    SHIRA_TRY(spec.region->set_first_touch(state_->first_touch));
    if (state_->originals == Originals::file) SHIRA_TRY(check_has_source(spec));
  }
  return state_->weights.add(std::move(specs));
}

std::vector<TensorSpec> Program::tensors() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->weights.specs();
}

// `passed`: the key that the file was found to pass, or none so far. The lock is given up while a
// file is hashed, so the key may have become another one by then.
Result<void> Program::State::check_signed(const AdapterFile& file, std::optional<PublicKey>* passed,
                                          std::unique_lock<std::mutex>* lock) const {
  const auto shares_file = [&](const auto& entry) { return entry.second->source->file == &file; };
  while (required_key && required_key != *passed) {
    const PublicKey key = *required_key;
    if (std::none_of(adapters.begin(), adapters.end(), shares_file)) {
      lock->unlock();
      SHIRA_TRY(file.check_signature(key));
      lock->lock();
    }
    *passed = key;
  }
  return {};
}

Result<std::string> Program::add_adapter(const std::shared_ptr<const Adapter>& source,
                                         const AddOptions& options) {
  if (!source) return Error{Status::INVALID_ARGUMENT, "there is no adapter"};
  const GateReader reader(state_->gate);
  std::unique_lock<std::mutex> lock(state_->mutex);
  std::optional<PublicKey> passed;
  SHIRA_TRY(state_->check_signed(*source->file, &passed, &lock));
  const std::vector<std::shared_ptr<BoundAdapter>> others = state_->all_adapters();
  const std::shared_ptr<const ActiveSet> active_set = state_->active;
  const std::shared_ptr<ThreadPool> pool = state_->pool;
  lock.unlock();
  std::shared_ptr<const ActiveSet> whole_set = active_set;
  if (reads_base(*source)) {
    SHIRA_ASSIGN(whole_set, state_->loaded(active_set));
  }
  const BindContext context{state_->weights, *whole_set, others, *pool};
  SHIRA_ASSIGN(std::shared_ptr<BoundAdapter> adapter, bind_adapter(source, options, context));

  std::string name = adapter->name;
  lock.lock();
  SHIRA_TRY(state_->check_signed(*source->file, &passed, &lock));
  if (!state_->adapters.emplace(name, std::move(adapter)).second) {
    return Error{Status::DUPLICATE_NAME, "an adapter \"" + name + "\" was added before"};
  }
  return name;
}

Result<void> Program::require_signature(const PublicKey& key) {
  std::map<const AdapterFile*, std::shared_ptr<const Adapter>> passed;
  std::unique_lock<std::mutex> lock(state_->mutex);
  const auto is_unchecked = [&](const auto& entry) {
    return passed.count(entry.second->source->file) == 0;
  };
  for (;;) {
    const auto next = std::find_if(state_->adapters.begin(), state_->adapters.end(), is_unchecked);
    if (next == state_->adapters.end()) break;
    const std::shared_ptr<const Adapter> source = next->second->source;
    lock.unlock();  // others may come and go while a file is hashed
    SHIRA_TRY(source->file->check_signature(key));
    lock.lock();
    passed.emplace(source->file, source);
  }
  state_->required_key = key;
  return {};
}

Result<void> Program::remove_adapter(const std::string& name) {
  const GateReader reader(state_->gate);  // a switch in flight may be about to activate it
  const std::lock_guard<std::mutex> lock(state_->mutex);
  SHIRA_ASSIGN(const std::shared_ptr<BoundAdapter> adapter, state_->find(name));
  if (state_->is_active(*adapter)) {
    return Error{Status::ADAPTER_IN_USE,
                 "adapter \"" + name + "\" is active; switch away from it first"};
  }
  for (const auto& [other_name, other] : state_->adapters) other->changed_from.erase(adapter.get());
  state_->adapters.erase(name);
  return {};
}

std::vector<std::string> Program::adapter_names() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  std::vector<std::string> names;
  for (const auto& [name, adapter] : state_->adapters) names.push_back(name);
  return names;
}

// ---- Checks without writing ----

Result<void> Program::check_adapter(const std::string& name) {
  const GateReader reader(state_->gate);
  std::unique_lock<std::mutex> lock(state_->mutex);
  SHIRA_ASSIGN(const std::shared_ptr<BoundAdapter> adapter, state_->find(name));
  const std::shared_ptr<const ActiveSet> active_set = state_->active;
  const std::shared_ptr<ThreadPool> pool = state_->pool;
  lock.unlock();

  SHIRA_ASSIGN(const kernels::KernelTable* kernels, kernels::active_kernels());
  std::vector<uint32_t> touched_tensors;
  for (const BoundTensor& bound : adapter->tensors) touched_tensors.push_back(bound.tensor_index);
  SHIRA_TRY(state_->weights.check_live(touched_tensors));
  SHIRA_ASSIGN(const std::shared_ptr<const ActiveSet> whole_set, state_->loaded(active_set));
  const LiveWeights live{state_->weights, *kernels, *whole_set};
  return pool->run(adapter->tensors.size(), adapter->source->entry_count(),
                   [&](size_t i) -> Result<void> {
                     SHIRA_TRY(check_base(live, *adapter, adapter->tensors[i]));
                     return {};
                   });
}

Result<VerifyReport> Program::verify_base() {
  const GateReader reader(state_->gate);
  std::unique_lock<std::mutex> lock(state_->mutex);
  const std::vector<std::shared_ptr<BoundAdapter>> adapters = state_->all_adapters();
  const std::shared_ptr<const ActiveSet> active_set = state_->active;
  const std::shared_ptr<ThreadPool> pool = state_->pool;
  lock.unlock();

  SHIRA_ASSIGN(const kernels::KernelTable* kernels, kernels::active_kernels());
  SHIRA_ASSIGN(const std::shared_ptr<const ActiveSet> whole_set, state_->loaded(active_set));
  return verify_live_base(LiveWeights{state_->weights, *kernels, *whole_set}, adapters, *pool);
}

// ---- State ----

std::vector<Member> Program::active() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return members_of(*state_->active);
}

uint64_t Program::epoch() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->epoch;
}

Hash128 Program::digest() const { return state().digest; }

ProgramState Program::state() const {
  std::unique_lock<std::mutex> lock(state_->mutex);
  const std::shared_ptr<const ActiveSet> active_set = state_->active;
  const uint64_t epoch = state_->epoch;
  lock.unlock();
  const std::lock_guard<std::mutex> digest_lock(state_->digest_mutex);
  return ProgramState{epoch, digest_of(active_set->patches), members_of(*active_set)};
}

Result<void> Program::set_thread_count(uint32_t count) {
  if (count < 1 || count > ThreadPool::kMaxThreads) {
    return Error{Status::INVALID_ARGUMENT, "the thread count is " + std::to_string(count) +
                                               ", expected 1 to " +
                                               std::to_string(ThreadPool::kMaxThreads)};
  }
  SHIRA_ASSIGN(std::shared_ptr<ThreadPool> pool, ThreadPool::make(count));
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->pool.swap(pool);  // a switch in flight keeps the old one until it is done
  return {};
}

uint32_t Program::thread_count() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->pool->thread_count();
}

// ---- Pages ----

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

void Program::begin_forward() { state_->gate.begin_read(); }

bool Program::end_forward() { return state_->gate.end_read(); }

}  // namespace shira
