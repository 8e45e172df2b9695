// Program: the life of a switch, from the gate to the new epoch.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/program.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/fault_guard.h"
#include "base/stopwatch.h"
#include "kernels/dispatch.h"
#include "runtime/element_ops.h"
#include "runtime/hard_revert.h"
#include "runtime/page_budget.h"
#include "runtime/program_state.h"
#include "runtime/switch_plan.h"

namespace shira {
namespace {

std::vector<Member> members_of(const ActiveSet& active_set) {
  std::vector<Member> members;
  for (const ActiveMember& member : active_set.members) {
    members.push_back(Member{member.adapter->name, member.scale});
  }
  return members;
}

}  // namespace

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

// ---- The gate ----

void Program::begin_forward() { state_->gate.begin_read(); }

bool Program::end_forward() { return state_->gate.end_read(); }

}  // namespace shira
