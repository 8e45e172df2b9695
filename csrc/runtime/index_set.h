// Set algebra over IndexLists: union and intersection of the positions that adapters touch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/array.h"
#include "base/result.h"
#include "format/index_list.h"

namespace shira {

/// Which of the two lists of walk() a piece belongs to.
enum class Side { a_only, b_only, both };

/// Consecutive positions that belong to the same side. The offsets say where the piece's values
/// stand in arrays that are ordered like the lists' entries; the offset into a list that the piece
/// is not in is where it would have to be inserted.
struct Piece {
  uint32_t start;
  uint32_t length;
  uint64_t offset_a;
  uint64_t offset_b;
};

/// How many units (single entries or runs) a list has.
inline size_t unit_count(const IndexList& list) {
  return list.is_runs() ? list.runs.size() : list.entries.size();
}

/// The flat index of the entry at `entry_offset`. REQUIRES: entry_offset < entry_count. Linear: for
/// messages.
uint32_t position_at(const IndexList& list, uint64_t entry_offset);

/// True when both hold the same positions in the same shape.
bool is_same_list(const IndexList& a, const IndexList& b);

/// The positions of either list. Two lists of entries give entries, anything else gives runs,
/// touching ones joined.
Result<IndexList> unite(const IndexList& a, const IndexList& b);

/// Where the lists share positions, copies `from`'s values over `to`'s. Elements of `element_bytes`
/// (1, 2 or 4).
void copy_common(const IndexList& from, const uint8_t* from_values, const IndexList& to,
                 uint8_t* to_values, size_t element_bytes);

namespace index_set {

// The two shapes of an IndexList behind one face: a current interval and a way to consume its
// front.

class EntryCursor {
 public:
  explicit EntryCursor(const IndexList& list)
      : begin_(list.entries.data()), entry_(begin_), end_(begin_ + list.entries.size()) {}
  bool done() const { return entry_ == end_; }
  uint32_t start() const { return *entry_; }
  uint32_t length() const { return 1; }
  uint64_t offset() const { return static_cast<uint64_t>(entry_ - begin_); }
  void consume(uint32_t /*length*/) { ++entry_; }

 private:
  const uint32_t* begin_;
  const uint32_t* entry_;
  const uint32_t* end_;
};

class RunCursor {
 public:
  explicit RunCursor(const IndexList& list)
      : run_(list.runs.data()), end_(run_ + list.runs.size()) {}
  bool done() const { return run_ == end_; }
  uint32_t start() const { return run_->start + used_; }
  uint32_t length() const { return run_->length - used_; }
  uint64_t offset() const { return offset_; }
  void consume(uint32_t length) {
    used_ += length;
    offset_ += length;
    if (used_ < run_->length) return;
    used_ = 0;
    ++run_;
  }

 private:
  const Run* run_;
  const Run* end_;
  uint32_t used_ = 0;  // of the current run
  uint64_t offset_ = 0;
};

template <typename CursorA, typename CursorB, typename Visit>
void merge(CursorA a, CursorB b, const Visit& visit) {
  while (!a.done() && !b.done()) {
    const uint32_t start_a = a.start();
    const uint32_t start_b = b.start();
    if (start_a < start_b) {
      const uint32_t length = std::min(a.length(), start_b - start_a);
      visit(Side::a_only, Piece{start_a, length, a.offset(), b.offset()});
      a.consume(length);
    } else if (start_b < start_a) {
      const uint32_t length = std::min(b.length(), start_a - start_b);
      visit(Side::b_only, Piece{start_b, length, a.offset(), b.offset()});
      b.consume(length);
    } else {
      const uint32_t length = std::min(a.length(), b.length());
      visit(Side::both, Piece{start_a, length, a.offset(), b.offset()});
      a.consume(length);
      b.consume(length);
    }
  }
  for (; !a.done(); a.consume(a.length())) {
    visit(Side::a_only, Piece{a.start(), a.length(), a.offset(), b.offset()});
  }
  for (; !b.done(); b.consume(b.length())) {
    visit(Side::b_only, Piece{b.start(), b.length(), a.offset(), b.offset()});
  }
}

}  // namespace index_set

/// Visits the union of both lists in ascending order, piece by piece, in linear time: visit(Side,
/// const Piece&). Every set operation is this walk with another visitor.
template <typename Visit>
void walk(const IndexList& a, const IndexList& b, const Visit& visit) {
  using index_set::EntryCursor;
  using index_set::RunCursor;
  if (a.is_runs()) {
    if (b.is_runs()) return index_set::merge(RunCursor(a), RunCursor(b), visit);
    return index_set::merge(RunCursor(a), EntryCursor(b), visit);
  }
  if (b.is_runs()) return index_set::merge(EntryCursor(a), RunCursor(b), visit);
  return index_set::merge(EntryCursor(a), EntryCursor(b), visit);
}

}  // namespace shira
