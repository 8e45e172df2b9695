// Cutting lists at positions: entries by bisection, runs one after the other.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/list_walker.h"

#include <algorithm>

namespace shira {

ListWalker::ListWalker(const Positions* positions) : positions_(positions) {
  if (positions == nullptr) return;
  const IndexList& list = *positions->list;
  entries_ = list.entries.data();
  runs_ = list.is_runs() ? list.runs.data() : nullptr;
  unit_count_ = list.is_runs() ? list.runs.size() : list.entries.size();
}

void ListWalker::seek(uint64_t position) {
  if (unit_count_ == 0) return;
  const Array<Mark>& marks = positions_->marks;
  const Mark* behind =
      std::upper_bound(marks.data(), marks.data() + marks.size(), position,
                       [](uint64_t wanted, const Mark& mark) { return wanted < mark.position; });
  const Mark& mark = behind == marks.data() ? *behind : *(behind - 1);
  unit_index_ = mark.unit_index;
  entry_offset_ = mark.entry_offset;
  used_ = runs_ == nullptr ? 0 : static_cast<uint32_t>(mark.position - runs_[unit_index_].start);
  static_cast<void>(take_below(position, Positions::kMarkEntries));
}

uint64_t ListWalker::position_ahead(uint64_t entry_count) const {
  if (runs_ == nullptr) {
    return entry_count < unit_count_ - unit_index_ ? entries_[unit_index_ + entry_count] : kEnd;
  }
  uint64_t ahead = entry_count + used_;  // counted from the start of a run
  for (size_t i = unit_index_; i < unit_count_; ++i) {
    if (ahead < runs_[i].length) return runs_[i].start + ahead;
    ahead -= runs_[i].length;
  }
  return kEnd;
}

Slice ListWalker::take_below(uint64_t end_position, uint64_t limit) {
  if (runs_ != nullptr) return take_runs_below(end_position);
  Slice slice;
  slice.first_unit = slice.first_entry = unit_index_;
  slice.unit_count = std::min<uint64_t>(limit, unit_count_ - unit_index_);
  if (end_position < kEnd) {
    const uint32_t* first = entries_ + unit_index_;
    slice.unit_count = static_cast<size_t>(
        std::lower_bound(first, first + slice.unit_count, end_position) - first);
  }
  slice.entry_count = slice.unit_count;
  unit_index_ += slice.unit_count;
  return slice;
}

Slice ListWalker::take_runs_below(uint64_t end_position) {
  Slice slice;
  slice.first_unit = unit_index_;
  slice.first_entry = entry_offset_;
  slice.skip_front = used_;
  while (unit_index_ < unit_count_ && runs_[unit_index_].start + uint64_t{used_} < end_position) {
    const Run run = runs_[unit_index_];
    const auto end_in_run =
        static_cast<uint32_t>(std::min<uint64_t>(end_position - run.start, run.length));
    ++slice.unit_count;
    slice.entry_count += end_in_run - used_;
    slice.skip_back = run.length - end_in_run;
    used_ = end_in_run;
    if (used_ < run.length) break;
    used_ = 0;
    ++unit_index_;
  }
  if (slice.unit_count == 0) slice.skip_front = 0;
  entry_offset_ += slice.entry_count;
  return slice;
}

TileWalker::TileWalker(const Positions* a, const Positions* b, uint64_t begin_position,
                       uint64_t end_position)
    : a_(a), b_(b), end_position_(end_position) {
  a_.seek(begin_position);
  b_.seek(begin_position);
}

bool TileWalker::next(Tile* tile) {
  tile->end_position =
      std::min({end_position_, a_.position_ahead(kTileEntries), b_.position_ahead(kTileEntries)});
  tile->a = a_.take_below(tile->end_position, kTileEntries);
  tile->b = b_.take_below(tile->end_position, kTileEntries);
  return tile->a.entry_count + tile->b.entry_count > 0;
}

}  // namespace shira
