// Union, difference and copying between IndexLists, as visitors of one walk.
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

template <typename T>
Result<Difference> subtract_elements(const IndexList& a, const T* a_values, const IndexList& b) {
  // Every unit of b splits at most one run of a.
  const size_t max_unit_count =
      a.is_runs()
          ? static_cast<size_t>(std::min<uint64_t>(unit_count(a) + unit_count(b), a.entry_count))
          : unit_count(a);
  SHIRA_ASSIGN(Builder builder, Builder::make(a.is_runs(), max_unit_count));
  SHIRA_ASSIGN(Array<uint8_t> values, Array<uint8_t>::make(a.entry_count * sizeof(T)));
  T* next_value = reinterpret_cast<T*>(values.data());
  walk(a, b, [&](Side side, const Piece& piece) {
    if (side != Side::a_only) return;
    builder.append(piece);
    copy_elements(a_values + piece.offset_a, piece.length, next_value);
    next_value += piece.length;
  });
  Difference difference;
  difference.index = builder.finish();
  values.truncate(difference.index.entry_count * sizeof(T));
  difference.values = std::move(values);
  return difference;
}

template <typename T>
void copy_common_elements(const IndexList& from, const T* from_values, const IndexList& to,
                          T* to_values) {
  walk(from, to, [&](Side side, const Piece& piece) {
    if (side == Side::both)
      copy_elements(from_values + piece.offset_a, piece.length, to_values + piece.offset_b);
  });
}

}  // namespace

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

Result<Difference> subtract(const IndexList& a, const uint8_t* a_values, const IndexList& b,
                            size_t element_bytes) {
  if (element_bytes == 4)
    return subtract_elements(a, reinterpret_cast<const uint32_t*>(a_values), b);
  return subtract_elements(a, reinterpret_cast<const uint16_t*>(a_values), b);
}

void copy_common(const IndexList& from, const uint8_t* from_values, const IndexList& to,
                 uint8_t* to_values, size_t element_bytes) {
  if (element_bytes == 4) {
    copy_common_elements(from, reinterpret_cast<const uint32_t*>(from_values), to,
                         reinterpret_cast<uint32_t*>(to_values));
  } else {
    copy_common_elements(from, reinterpret_cast<const uint16_t*>(from_values), to,
                         reinterpret_cast<uint16_t*>(to_values));
  }
}

}  // namespace shira
