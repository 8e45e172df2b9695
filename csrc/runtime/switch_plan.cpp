// SwitchPlan: check, compute, store, commit.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/switch_plan.h"

#include <algorithm>
#include <atomic>
#include <iterator>
#include <tuple>
#include <utility>

#include "runtime/binding.h"
#include "runtime/element_ops.h"
#include "runtime/index_set.h"
#include "runtime/live_access.h"

namespace shira {

SwitchPlan::SwitchPlan(const WeightTable& weights, const kernels::KernelTable& kernels,
                       ThreadPool& pool, const ActiveSet& from, std::vector<ActiveMember> to)
    : weights_(weights), kernels_(kernels), pool_(pool), from_(from) {
  to_.members = std::move(to);
  for (uint32_t member_index = 0; member_index < to_.members.size(); ++member_index) {
    const ActiveMember& member = to_.members[member_index];
    const bool is_entering =
        std::none_of(from.members.begin(), from.members.end(),
                     [&](const ActiveMember& old) { return old.adapter == member.adapter; });
    for (BoundTensor& bound : member.adapter->tensors) {
      touches_.push_back(Touch{bound.tensor_index, member_index, is_entering, member.scale,
                               member.adapter.get(), &bound, bound.originals});
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
}

Result<void> SwitchPlan::check_regions() const { return weights_.check_live(touched_tensors_); }

Result<void> SwitchPlan::check_bases() {
  const LiveWeights live{weights_, kernels_, from_};
  return pool_.run(touches_.size(), touched_entries(), [&](size_t i) -> Result<void> {
    Touch& touch = touches_[i];
    if (!touch.is_entering) return {};
    SHIRA_ASSIGN(touch.originals, check_base(live, *touch.adapter, *touch.bound));
    return {};
  });
}

Result<void> SwitchPlan::prepare() {
  SHIRA_TRY(build_patches());
  SHIRA_TRY(list_restores());
  for (const auto& patch : to_.patches) {
    stores_.push_back(Store{patch->tensor_index, patch->positions, patch->values.get(), {}});
  }
  std::sort(stores_.begin(), stores_.end(),
            [](const Store& a, const Store& b) { return a.tensor_index < b.tensor_index; });
  count_pages();
  SHIRA_TRY(list_slices());
  return prepare_pages();
}

Result<void> SwitchPlan::build_patches() {
  to_.patches.resize(first_touches_.size() - 1);
  return pool_.run(to_.patches.size(), touched_entries(), [&](size_t i) -> Result<void> {
    const size_t first = first_touches_[i];
    const TensorSpec& spec = weights_.specs()[touches_[first].tensor_index];
    SHIRA_ASSIGN(to_.patches[i],
                 build_patch(kernels_, spec, &touches_[first], first_touches_[i + 1] - first));
    return {};
  });
}

// The old state's positions that the new one does not write get their base values back.
Result<void> SwitchPlan::list_restores() {
  stores_.resize(from_.patches.size());
  SHIRA_TRY(pool_.run(stores_.size(), touched_entries(), [&](size_t i) -> Result<void> {
    SHIRA_ASSIGN(stores_[i], restore_of(*from_.patches[i]));
    return {};
  }));
  stores_.erase(std::remove_if(stores_.begin(), stores_.end(),
                               [](const Store& store) { return !store.positions; }),
                stores_.end());
  return {};
}

Result<SwitchPlan::Store> SwitchPlan::restore_of(const Patch& old_patch) const {
  const TensorSpec& spec = weights_.specs()[old_patch.tensor_index];
  const Patch* new_patch = to_.find(old_patch.tensor_index);
  Store store;
  store.tensor_index = old_patch.tensor_index;
  if (new_patch == nullptr) {
    store.positions = old_patch.positions;
    store.values = old_patch.originals->data();
    return store;
  }
  if (new_patch->positions == old_patch.positions) return store;  // nothing to restore
  SHIRA_ASSIGN(Difference difference,
               subtract(*old_patch.positions->list, old_patch.originals->data(),
                        *new_patch->positions->list, dtype_bytes(spec.dtype)));
  if (difference.index.entry_count == 0) return store;
  SHIRA_ASSIGN(store.positions,
               Positions::make(std::make_shared<IndexList>(std::move(difference.index)), spec));
  store.owned_values = std::move(difference.values);
  store.values = store.owned_values.data();
  return store;
}

// REQUIRES: stores_ is sorted by tensor, so that a tensor's restore and patch are neighbours.
void SwitchPlan::count_pages() {
  const PageSet none;
  for (size_t i = 0; i < stores_.size();) {
    const bool pair =
        i + 1 < stores_.size() && stores_[i + 1].tensor_index == stores_[i].tensor_index;
    pages_touched_ += PageSet::count_union(stores_[i].positions->pages,
                                           pair ? stores_[i + 1].positions->pages : none);
    i += pair ? 2 : 1;
  }
}

Result<void> SwitchPlan::list_slices() {
  size_t slice_count = 0;
  for (const Store& store : stores_) slice_count += store.positions->slices.size();
  SHIRA_ASSIGN(slices_, Array<StoreSlice>::make(slice_count));
  slice_count = 0;
  for (const Store& store : stores_) {
    const uint64_t count = store.positions->count();
    elements_written_ += count;
    bytes_written_ += count * dtype_bytes(weights_.specs()[store.tensor_index].dtype);
    for (size_t i = 0; i < store.positions->slices.size(); ++i)
      slices_[slice_count++] = StoreSlice{&store, i};
  }
  return {};
}

Result<void> SwitchPlan::prepare_pages() {
  return pool_.run(stores_.size(), elements_written_, [&](size_t i) -> Result<void> {
    const TensorSpec& spec = weights_.specs()[stores_[i].tensor_index];
    Result<void> prepared = spec.region->prepare_stores(spec.data, stores_[i].positions->pages);
    if (!prepared.ok()) prepared.error().tensor = spec.name;
    return prepared;
  });
}

Result<void> SwitchPlan::store() {
  std::atomic<uint64_t> changed_count{0};
  Result<void> stored = pool_.run(slices_.size(), elements_written_, [&](size_t i) -> Result<void> {
    const Store& store = *slices_[i].store;
    const TensorSpec& spec = weights_.specs()[store.tensor_index];
    return access_live(spec, [&] {
      changed_count += scatter(kernels_, spec, *store.positions->list,
                               store.positions->slices[slices_[i].slice_index], store.values);
    });
  });
  elements_changed_ = changed_count;
  if (!stored.ok()) put_back();
  return stored;
}

// Whatever was stored and whatever was not: first the base everywhere, then the old state over it.
void SwitchPlan::put_back() {
  const auto scatter_over = [&](const Patch& patch, const uint8_t* values) {
    const TensorSpec& spec = weights_.specs()[patch.tensor_index];
    // Pages that went away have nothing to be put back.
    static_cast<void>(
        access_live(spec, [&] { scatter_all(kernels_, spec, *patch.positions, values); }));
  };
  for (const auto& patch : to_.patches) scatter_over(*patch, patch->originals->data());
  for (const auto& patch : from_.patches) scatter_over(*patch, patch->values.get());
}

ActiveSet SwitchPlan::commit() {
  for (size_t i = 0; i < to_.patches.size(); ++i) {
    for (size_t j = first_touches_[i]; j < first_touches_[i + 1]; ++j) {
      touches_[j].bound->originals = std::move(touches_[j].originals);
    }
    const Touch& first = touches_[first_touches_[i]];
    if (first_touches_[i + 1] - first_touches_[i] == 1 && is_exact(first))
      first.bound->exact = to_.patches[i];
  }
  return std::move(to_);
}

void SwitchPlan::report(SwitchReport* report) const {
  report->tensors_matched = touched_tensors_.size();
  report->elements_written = elements_written_;
  report->elements_changed = elements_changed_;
  report->bytes_written = bytes_written_;
  report->pages_touched = pages_touched_;
}

uint64_t SwitchPlan::touched_entries() const {
  uint64_t entry_count = 0;
  for (const Touch& touch : touches_) entry_count += touch.bound->source->nnz;
  for (const auto& patch : from_.patches) entry_count += patch->positions->count();
  return entry_count;
}

}  // namespace shira
