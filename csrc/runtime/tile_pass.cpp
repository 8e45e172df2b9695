// Restoring, storing, saving and comparing in one walk over each tensor, and undoing it.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/tile_pass.h"

#include <cstring>

#include "runtime/element_ops.h"
#include "runtime/live_access.h"

namespace shira {
namespace {

const Positions* positions_of(const Patch* patch) {
  return patch == nullptr ? nullptr : patch->positions.get();
}

// In a tile of a step, `a` is restored and `b` is stored. Of equal lists the second is enough.
TileWalker walk_tiles(const TensorStep& step, uint64_t begin_position, uint64_t end_position) {
  return TileWalker(step.shares_positions() ? nullptr : positions_of(step.from),
                    positions_of(step.to), begin_position, end_position);
}

// The list that says where the tasks of a step begin.
const Positions& longer_list(const TensorStep& step) {
  const Positions* from = positions_of(step.from);
  const Positions* to = positions_of(step.to);
  // One of the two is there (see TensorStep), which the analyzer cannot know.
  // NOLINTNEXTLINE(clang-analyzer-core.uninitialized.UndefReturn)
  return *(to == nullptr || (from != nullptr && from->count() > to->count()) ? from : to);
}

// The mark, or the last border below it that two threads may write on both sides of. A mark stands
// before an entry of one list, but the other list may have entries between the border and there.
uint64_t border_at(const TensorSpec& spec, const Mark& mark) {
  if (!spec.layout) return mark.position;
  return mark.position - mark.position % spec.layout->group_elements();
}

// Where a slice's values stand in an array that is ordered like the list.
template <typename Byte>
Byte* part_of(Byte* list_values, const TensorStep& step, const Slice& slice) {
  return list_values + slice.first_entry * dtype_bytes(step.spec->dtype);
}

const uint8_t* base_of(const TensorStep& step) {
  if (step.to == nullptr) return nullptr;
  return step.new_originals != nullptr ? step.new_originals->data() : step.to->originals->data();
}

Result<void> check_fingerprint(const TensorStep& step) {
  if (step.new_originals == nullptr || step.fingerprint == nullptr ||
      hash128(step.new_originals->data(), step.new_originals->size()) == *step.fingerprint) {
    return {};
  }
  return Error{Status::BASE_MISMATCH, ""};
}

}  // namespace

Result<void> TilePass::prepare() {
  size_t task_count = 0;
  for (const TensorStep& step : steps_) task_count += longer_list(step).marks.size();
  SHIRA_ASSIGN(tasks_, Array<Task>::make(task_count));
  tasks_left_ = std::vector<std::atomic<uint32_t>>(steps_.size());
  task_count = 0;
  for (size_t i = 0; i < steps_.size(); ++i) {
    const Array<Mark>& marks = longer_list(steps_[i]).marks;
    tasks_left_[i] = static_cast<uint32_t>(marks.size());
    for (size_t m = 0; m < marks.size(); ++m) {
      Task& task = tasks_[task_count++] = Task{};
      task.step_index = i;
      const TensorSpec& spec = *steps_[i].spec;
      task.begin_position = task.stored_end = m == 0 ? 0 : border_at(spec, marks[m]);
      task.end_position = m + 1 < marks.size() ? border_at(spec, marks[m + 1]) : ListWalker::kEnd;
    }
    for (const Patch* patch : {steps_[i].from, steps_[i].to}) {
      if (patch != nullptr) entry_count_ += patch->positions->count();
    }
  }
  return {};
}

Result<void> TilePass::run() {
  Result<void> done =
      pool_.run(tasks_.size(), entry_count_, [&](size_t i) { return run_task(&tasks_[i]); });
  for (size_t i = 0; i < tasks_.size(); ++i) {
    TensorStep& step = steps_[tasks_[i].step_index];
    step.elements_changed += tasks_[i].elements_changed;
    step.effect_count += tasks_[i].effect_count;
    step.has_faulted = step.has_faulted || tasks_[i].has_faulted;
  }
  for (TensorStep& step : steps_) {
    if (step.to != nullptr) step.effect_count = step.to->effect_count.value_or(step.effect_count);
    if (step.from == nullptr) {
      step.elements_changed = step.effect_count;
    } else if (!step.shares_positions()) {
      step.elements_changed += step.from->effect_count.value_or(0);
    }
  }
  return done;
}

Result<void> TilePass::run_task(Task* task) {
  const TensorStep& step = steps_[task->step_index];
  const TensorSpec& spec = *step.spec;
  const FaultGuard guard(spec.data, live_bytes(spec));
  Scratch scratch;
  TileWalker walker = walk_tiles(step, task->begin_position, task->end_position);
  for (Tile tile; walker.next(&tile); task->stored_end = tile.end_position) {
    const bool is_base = store_tile(step, tile, task, &scratch);
    task->has_faulted = guard.has_faulted();
    if (is_base && !task->has_faulted) continue;
    undo_tile(step, tile,
              step.new_originals == nullptr ? scratch.replaced
                                            : part_of(step.new_originals->data(), step, tile.b));
    if (task->has_faulted) return pages_went_away(spec);
    return Error{Status::BASE_MISMATCH, ""};
  }
  const bool is_last = tasks_left_[task->step_index].fetch_sub(1) == 1;
  return is_last ? check_fingerprint(step) : Result<void>{};
}

// False when what the new values have replaced is not the base.
bool TilePass::store_tile(const TensorStep& step, const Tile& tile, Task* task,
                          Scratch* scratch) const {
  const TensorSpec& spec = *step.spec;
  const auto differing = [&](const uint8_t* a, const uint8_t* b) {
    return count_different(kernels_, spec.dtype, a, b, tile.b.entry_count);
  };
  const uint8_t* new_values =
      step.to == nullptr ? nullptr : part_of(step.to->values.get(), step, tile.b);
  const uint8_t* base = step.to == nullptr ? nullptr : part_of(base_of(step), step, tile.b);
  const bool counts_effect = step.to != nullptr && !step.to->effect_count;

  if (step.shares_positions()) {
    if (counts_changes_)
      task->elements_changed +=
          differing(new_values, part_of(step.from->values.get(), step, tile.b));
    if (counts_effect) task->effect_count += differing(new_values, base);
    store(kernels_, spec, *step.to->positions->list, tile.b, new_values);
    return true;
  }

  const bool counts_both = counts_changes_ && step.from != nullptr && tile.b.entry_count > 0;
  if (counts_both) gather(kernels_, spec, *step.to->positions->list, tile.b, scratch->live);
  if (step.from != nullptr)
    store(kernels_, spec, *step.from->positions->list, tile.a,
          part_of(step.from->originals->data(), step, tile.a));
  if (tile.b.entry_count == 0) return true;
  uint8_t* replaced = step.new_originals == nullptr
                          ? scratch->replaced
                          : part_of(step.new_originals->data(), step, tile.b);
  swap(kernels_, spec, *step.to->positions->list, tile.b, new_values, replaced);
  if (step.new_originals == nullptr &&
      std::memcmp(replaced, base, tile.b.entry_count * dtype_bytes(spec.dtype)) != 0)
    return false;
  // What the old patch changes where the new one does, too, is counted in both its effect and here.
  if (counts_both) {
    task->elements_changed += differing(new_values, scratch->live) - differing(scratch->live, base);
  }
  if (counts_effect) task->effect_count += differing(new_values, base);
  return true;
}

void TilePass::undo() {
  for (size_t i = 0; i < tasks_.size(); ++i) {
    const Task& task = tasks_[i];
    const TensorStep& step = steps_[task.step_index];
    TileWalker walker = walk_tiles(step, task.begin_position, task.stored_end);
    // Pages that went away have nothing to be put back.
    static_cast<void>(access_live(*step.spec, [&] {
      for (Tile tile; walker.next(&tile);)
        undo_tile(step, tile, part_of(base_of(step), step, tile.b));
    }));
  }
}

// `replaced`: what the new values have replaced.
void TilePass::undo_tile(const TensorStep& step, const Tile& tile, const uint8_t* replaced) const {
  const auto store_old = [&](const Slice& slice) {
    store(kernels_, *step.spec, *step.from->positions->list, slice,
          part_of(step.from->values.get(), step, slice));
  };
  if (step.shares_positions()) return store_old(tile.b);
  if (step.to != nullptr) store(kernels_, *step.spec, *step.to->positions->list, tile.b, replaced);
  if (step.from != nullptr) store_old(tile.a);
}

}  // namespace shira
