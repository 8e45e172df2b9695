// SwitchPlan: find, compute, store, commit.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/switch_plan.h"

#include <algorithm>
#include <iterator>
#include <tuple>
#include <utility>

#include "base/array_pool.h"
#include "base/huge_pages.h"
#include "runtime/binding.h"
#include "runtime/live_access.h"

namespace shira {
namespace {

// Of one adapter; above that, all are counted anew.
constexpr size_t kMaxRememberedChanges = 256;

// Both states are one adapter at scale 1, so that between them the same elements change every time.
bool is_pair(const ActiveSet& from, const ActiveSet& to) {
  const auto is_single = [](const ActiveSet& set) {
    return set.members.size() == 1 && set.members[0].scale == 1.0F;
  };
  return is_single(from) && is_single(to);
}

void remember_change(const BoundAdapter* from, BoundAdapter* to, uint64_t elements_changed) {
  if (to->changed_from.size() >= kMaxRememberedChanges) to->changed_from.clear();
  to->changed_from[from] = elements_changed;
}

}  // namespace

SwitchPlan::SwitchPlan(const WeightTable& weights, const kernels::KernelTable& kernels,
                       ThreadPool& pool, const ActiveSet& from, std::vector<ActiveMember> to)
    : weights_(weights), kernels_(kernels), pool_(pool), from_(from) {
  to_.members = std::move(to);
  for (uint32_t member_index = 0; member_index < to_.members.size(); ++member_index) {
    const ActiveMember& member = to_.members[member_index];
    for (BoundTensor& bound : member.adapter->tensors) {
      touches_.push_back(Touch{bound.tensor_index, member_index, member.scale, member.adapter.get(),
                               &bound, nullptr, nullptr});
    }
  }
  std::sort(touches_.begin(), touches_.end(), [](const Touch& a, const Touch& b) {
    return std::tie(a.tensor_index, a.member_index) < std::tie(b.tensor_index, b.member_index);
  });
  for (size_t i = 0; i < touches_.size(); ++i) {
    if (i > 0 && touches_[i].tensor_index == touches_[i - 1].tensor_index) continue;
    first_touches_.push_back(i);
    touched_tensors_.push_back(touches_[i].tensor_index);
  }
  first_touches_.push_back(touches_.size());
  for (const auto& patch : from.patches) touched_tensors_.push_back(patch->tensor_index);
  std::sort(touched_tensors_.begin(), touched_tensors_.end());
  touched_tensors_.erase(std::unique(touched_tensors_.begin(), touched_tensors_.end()),
                         touched_tensors_.end());
  if (!is_pair(from, to_)) return;
  const auto& changed_from = to_.members[0].adapter->changed_from;
  const auto known = changed_from.find(from.members[0].adapter.get());
  if (known != changed_from.end()) known_change_ = known->second;
}

Result<void> SwitchPlan::check_regions() const { return weights_.check_live(touched_tensors_); }

Result<void> SwitchPlan::find_originals() {
  SHIRA_TRY(make_room());
  return pool_.run(touches_.size(), touched_entries(), [&](size_t i) -> Result<void> {
    const LiveWeights live{weights_, kernels_, from_};
    Touch& touch = touches_[i];
    if (touch.new_originals != nullptr) {
      populate_pages(touch.new_originals->data(), touch.new_originals->size());
      return {};
    }
    touch.originals = touch.bound->positions->originals;
    if (touch.originals) return check_saved_originals(live, *touch.adapter, *touch.bound);
    SHIRA_ASSIGN(touch.originals, check_base(live, *touch.adapter, *touch.bound));
    return {};
  });
}

// For the originals that the store saves on its way: one allocation for all, so that large ones get
// huge pages.
Result<void> SwitchPlan::make_room() {
  const auto size_of = [](const Touch& touch) {
    return touch.bound->positions->count() * dtype_bytes(touch.bound->source->dtype);
  };
  std::vector<Touch*> first_touches;
  uint64_t room_bytes = 0;
  for (size_t i = 0; i < touches_.size(); ++i) {
    Touch& touch = touches_[i];
    if (touch.bound->positions->originals || !is_exact(touch) || !is_alone(i)) continue;
    first_touches.push_back(&touch);
    room_bytes += ArrayPool::bytes_of<uint8_t>(size_of(touch));
  }
  SHIRA_ASSIGN(ArrayPool pool, ArrayPool::make(room_bytes));
  for (Touch* touch : first_touches) {
    SHIRA_ASSIGN(Bytes room, pool.take<uint8_t>(size_of(*touch)));
    const auto new_originals = std::make_shared<Bytes>(std::move(room));
    touch->new_originals = new_originals.get();
    touch->originals = new_originals;
  }
  return {};
}

bool SwitchPlan::is_alone(size_t touch_index) const {
  const auto touches_same = [&](size_t i) {
    return i < touches_.size() && touches_[i].tensor_index == touches_[touch_index].tensor_index;
  };
  return !touches_same(touch_index - 1) && !touches_same(touch_index + 1);
}

Result<void> SwitchPlan::build_patches() {
  to_.patches.resize(first_touches_.size() - 1);
  SHIRA_TRY(pool_.run(to_.patches.size(), touched_entries(), [&](size_t i) -> Result<void> {
    const size_t first = first_touches_[i];
    const TensorSpec& spec = weights_.specs()[touches_[first].tensor_index];
    SHIRA_ASSIGN(to_.patches[i],
                 build_patch(kernels_, spec, &touches_[first], first_touches_[i + 1] - first));
    return {};
  }));
  list_steps();
  pass_.emplace(kernels_, pool_, &steps_, !known_change_);
  return pass_->prepare();
}

void SwitchPlan::list_steps() {
  size_t patch_index = 0;
  for (const uint32_t tensor_index : touched_tensors_) {
    TensorStep step;
    step.spec = &weights_.specs()[tensor_index];
    step.from = from_.find(tensor_index);
    if (patch_index < to_.patches.size() &&
        to_.patches[patch_index]->tensor_index == tensor_index) {
      step.to = to_.patches[patch_index].get();
      const Touch& touch = touches_[first_touches_[patch_index++]];
      step.new_originals = touch.new_originals;
      if (touch.adapter->source->is_bound) step.fingerprint = &touch.bound->source->fingerprint;
    }
    steps_.push_back(step);
  }
}

Result<void> SwitchPlan::prepare_pages() {
  return pool_.run(steps_.size(), touched_entries(), [&](size_t i) -> Result<void> {
    const TensorStep& step = steps_[i];
    for (const Patch* patch : {step.from, step.to}) {
      if (patch == nullptr) continue;
      Result<void> prepared =
          step.spec->region->prepare_stores(step.spec->data, patch->positions->pages);
      if (prepared.ok()) continue;
      prepared.error().tensor = step.spec->name;
      return prepared;
    }
    return {};
  });
}

Result<void> SwitchPlan::store() {
  TilePass& pass = *pass_;  // NOLINT(bugprone-unchecked-optional-access): build_patches() made it
  Result<void> stored = pass.run();
  if (stored.ok()) return stored;
  pass.undo();
  return explain(std::move(stored.error()));
}

// With the old state in place again there is time to say precisely what was wrong. A page that went
// away reads as zeros in other threads, so that it comes before what they took for a wrong base.
Error SwitchPlan::explain(Error error) const {
  for (const TensorStep& step : steps_) {
    if (step.has_faulted) return pages_went_away(*step.spec);
  }
  const LiveWeights live{weights_, kernels_, from_};
  for (const Touch& touch : touches_) {
    Result<std::shared_ptr<const Bytes>> base = check_base(live, *touch.adapter, *touch.bound);
    if (!base.ok()) return std::move(base.error());
  }
  error.message = "base values were changed by somebody else while they were compared";
  return error;
}

ActiveSet SwitchPlan::commit() {
  for (const Touch& touch : touches_) {
    std::shared_ptr<const Bytes>& saved = touch.bound->positions->originals;
    if (!saved) saved = touch.originals;
    if (saved == touch.originals) touch.bound->has_checked_originals = true;
  }
  for (const TensorStep& step : steps_) {
    if (step.to != nullptr) step.to->effect_count = step.effect_count;
  }
  for (size_t i = 0; i < to_.patches.size(); ++i) {
    const Touch& first = touches_[first_touches_[i]];
    if (is_alone(first_touches_[i]) && is_exact(first)) first.bound->exact = to_.patches[i];
  }
  if (is_pair(from_, to_)) {
    BoundAdapter* const from = from_.members[0].adapter.get();
    BoundAdapter* const to = to_.members[0].adapter.get();
    remember_change(from, to, elements_changed());
    remember_change(to, from, elements_changed());  // the way back changes the same elements
  }
  return std::move(to_);
}

void SwitchPlan::report(SwitchReport* report) const {
  const PageSet none;
  report->tensors_matched = steps_.size();
  report->elements_changed = elements_changed();
  for (const TensorStep& step : steps_) {
    const bool restores = step.from != nullptr && !step.shares_positions();
    const uint64_t count = (restores ? step.from->positions->count() : 0) +
                           (step.to != nullptr ? step.to->positions->count() : 0);
    report->elements_written += count;
    report->bytes_written += count * dtype_bytes(step.spec->dtype);
    report->pages_touched +=
        PageSet::count_union(restores ? step.from->positions->pages : none,
                             step.to != nullptr ? step.to->positions->pages : none);
  }
}

uint64_t SwitchPlan::elements_changed() const {
  if (known_change_) return *known_change_;
  uint64_t changed_count = 0;
  for (const TensorStep& step : steps_) changed_count += step.elements_changed;
  return changed_count;
}

uint64_t SwitchPlan::touched_entries() const {
  uint64_t entry_count = 0;
  for (const Touch& touch : touches_) entry_count += touch.bound->source->nnz;
  for (const auto& patch : from_.patches) entry_count += patch->positions->count();
  return entry_count;
}

}  // namespace shira
