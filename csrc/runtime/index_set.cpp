// Union and copying between IndexLists, as visitors of one walk.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/index_set.h"

#include <cstring>

namespace shira {
namespace {

// Appends ascending pieces to a list whose arrays were allocated for the worst case.
class Builder {
 public:
  static Result<Builder> make(bool runs, size_t max_unit_count) {
    Builder builder;
    builder.runs_ = runs;
    if (runs) {
      SHIRA_ASSIGN(builder.list_.runs, Array<Run>::make(max_unit_count));
    } else {
      SHIRA_ASSIGN(builder.list_.entries, Array<uint32_t>::make(max_unit_count));
    }
    return builder;
  }

  void append(const Piece& piece) {
    list_.entry_count += piece.length;
    if (!runs_) {
      list_.entries[unit_count_++] = piece.start;
      return;
    }
    Run* last = unit_count_ == 0 ? nullptr : &list_.runs[unit_count_ - 1];
    if (last != nullptr && last->start + last->length == piece.start) {
      last->length += piece.length;
    } else {
      list_.runs[unit_count_++] = Run{piece.start, piece.length};
    }
  }

  IndexList finish() {
    if (runs_) {
      list_.runs.truncate(unit_count_);
    } else {
      list_.entries.truncate(unit_count_);
    }
    return std::move(list_);
  }

 private:
  bool runs_ = false;
  size_t unit_count_ = 0;
  IndexList list_;
};

// memcpy of a length that is most often one element, without the call.
template <typename T>
void copy_elements(const T* from, uint32_t count, T* to) {
  for (uint32_t i = 0; i < count; ++i) to[i] = from[i];
}

// Which of 65,536 consecutive positions a list of entries holds. Two random masks of one tensor
// meet in an order that no branch predictor can guess; looking positions up in a window costs a
// third of the merge. It fits the first-level cache.
class Window {
 public:
  static uint32_t number_of(uint32_t position) { return position >> kShift; }

  // Holds the entries of window `number` among [entry, end) and returns the first entry behind it.
  const uint32_t* fill(uint32_t number, const uint32_t* entry, const uint32_t* end) {
    std::memset(words_, 0, sizeof(words_));
    while (entry != end && number_of(*entry) < number) ++entry;
    for (; entry != end && number_of(*entry) == number; ++entry) {
      words_[(*entry & kMask) / 64] |= uint64_t{1} << (*entry % 64);
    }
    return entry;
  }

  bool has(uint32_t position) const {
    return (words_[(position & kMask) / 64] >> (position % 64) & 1U) != 0;
  }

 private:
  static constexpr uint32_t kShift = 16;
  static constexpr uint32_t kMask = (1U << kShift) - 1;
  uint64_t words_[(1U << kShift) / 64];
};

template <typename T>
void copy_common_entries(const IndexList& from, const T* from_values, const IndexList& to,
                         T* to_values) {
  const uint32_t* begin_from = from.entries.data();
  const uint32_t* next_from = begin_from;
  const uint32_t* end_from = begin_from + from.entries.size();
  const uint32_t* match = begin_from;
  Window window;
  for (size_t i = 0; i < to.entries.size();) {
    const uint32_t number = Window::number_of(to.entries[i]);
    next_from = window.fill(number, next_from, end_from);
    for (; i < to.entries.size() && Window::number_of(to.entries[i]) == number; ++i) {
      if (!window.has(to.entries[i])) continue;
      while (*match != to.entries[i]) ++match;
      to_values[i] = from_values[match - begin_from];
    }
  }
}

template <typename T>
void copy_common_elements(const IndexList& from, const T* from_values, const IndexList& to,
                          T* to_values) {
  if (!from.is_runs() && !to.is_runs())
    return copy_common_entries(from, from_values, to, to_values);
  walk(from, to, [&](Side side, const Piece& piece) {
    if (side == Side::both)
      copy_elements(from_values + piece.offset_a, piece.length, to_values + piece.offset_b);
  });
}

}  // namespace

bool is_same_list(const IndexList& a, const IndexList& b) {
  if (&a == &b) return true;
  const auto is_same_run = [](const Run& x, const Run& y) {
    return x.start == y.start && x.length == y.length;
  };
  return std::equal(a.entries.data(), a.entries.data() + a.entries.size(), b.entries.data(),
                    b.entries.data() + b.entries.size()) &&
         std::equal(a.runs.data(), a.runs.data() + a.runs.size(), b.runs.data(),
                    b.runs.data() + b.runs.size(), is_same_run);
}

uint32_t position_at(const IndexList& list, uint64_t entry_offset) {
  if (!list.is_runs()) return list.entries[entry_offset];
  const Run* run = list.runs.data();
  for (; entry_offset >= run->length; ++run) entry_offset -= run->length;
  return run->start + static_cast<uint32_t>(entry_offset);
}

Result<IndexList> unite(const IndexList& a, const IndexList& b) {
  SHIRA_ASSIGN(Builder builder,
               Builder::make(a.is_runs() || b.is_runs(), unit_count(a) + unit_count(b)));
  walk(a, b, [&](Side, const Piece& piece) { builder.append(piece); });
  return builder.finish();
}

void copy_common(const IndexList& from, const uint8_t* from_values, const IndexList& to,
                 uint8_t* to_values, size_t element_bytes) {
  if (element_bytes == 4) {
    copy_common_elements(from, reinterpret_cast<const uint32_t*>(from_values), to,
                         reinterpret_cast<uint32_t*>(to_values));
  } else if (element_bytes == 2) {
    copy_common_elements(from, reinterpret_cast<const uint16_t*>(from_values), to,
                         reinterpret_cast<uint16_t*>(to_values));
  } else {
    copy_common_elements(from, from_values, to, to_values);
  }
}

}  // namespace shira
