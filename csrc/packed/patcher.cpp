// One pass over the entries, in batches: the next batch is on its way while one is stored.
// SPDX-License-Identifier: Apache-2.0
#include "packed/patcher.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace shira {
namespace {

// As many cache misses at once as a core can have under way; entries seldom share a line.
constexpr size_t kBatch = 64;

/// How a code lies in memory, and how it is handed over.
template <typename T>
struct ElementCell {
  using Value = T;
  static Value read(const PackedLayout&, const uint8_t* at, uint32_t) {
    Value value;
    std::memcpy(&value, at, sizeof(value));
    return value;
  }
  static void write(const PackedLayout&, uint8_t* at, uint32_t, Value value) {
    std::memcpy(at, &value, sizeof(value));
  }
};

struct NibbleCell {
  using Value = int8_t;
  static Value read(const PackedLayout& layout, const uint8_t* at, uint32_t shift) {
    return layout.nibble(static_cast<uint32_t>(*at) >> shift);
  }
  static void write(const PackedLayout& layout, uint8_t* at, uint32_t shift, Value value) {
    *at = static_cast<uint8_t>((*at & ~(15U << shift)) | layout.nibble_bits(value) << shift);
  }
};

template <typename Body>
void with_cell(const PackedLayout& layout, Body body) {
  switch (layout.family().dtype) {
    case Dtype::i4:
      return body(NibbleCell());
    case Dtype::i8:
      return body(ElementCell<int8_t>());
    case Dtype::f32:
      return body(ElementCell<uint32_t>());
    default:
      return body(ElementCell<uint16_t>());
  }
}

/// Where the entry of an index is, for indices that ascend.
class Locator {
 public:
  explicit Locator(const PackedLayout& layout) : layout_(layout) {}

  struct Place {
    uint8_t* at;
    uint32_t shift;
    uint32_t row;
  };

  Place place(uint8_t* packed, uint32_t index) {
    if (index >= row_end_) move_to(index);
    const CodePlace code = layout_.code_in_row(block_, lane_, index - row_begin_);
    return {packed + code.offset_bytes, code.shift, row_};
  }

 private:
  void move_to(uint32_t index) {
    row_ = index / layout_.column_count();
    row_begin_ = row_ * layout_.column_count();
    row_end_ = uint64_t{row_begin_} + layout_.column_count();
    block_ = layout_.block_of(row_);
    lane_ = row_ % layout_.block_rows();
  }

  // A copy: what is stored into `packed` could otherwise change it, for all a compiler knows.
  const PackedLayout layout_;
  uint32_t row_ = 0;
  uint32_t row_begin_ = 0;
  uint64_t row_end_ = 0;
  uint64_t block_ = 0;
  uint32_t lane_ = 0;
};

/// Calls entry(j, place) for every entry. Its cache line was asked for a batch before.
template <typename Entry>
void for_each_entry(const PackedLayout& layout, uint8_t* packed, const uint32_t* index,
                    size_t count, Entry entry) {
  Locator locator(layout);
  Locator::Place batches[2][kBatch];
  Locator::Place* next = batches[0];
  Locator::Place* current = batches[1];
  size_t current_count = 0;
  for (size_t j = 0; j < count + kBatch; j += kBatch) {
    const size_t next_count = j < count ? std::min(kBatch, count - j) : 0;
    for (size_t i = 0; i < next_count; ++i) {
      next[i] = locator.place(packed, index[j + i]);
      __builtin_prefetch(next[i].at, 1);
    }
    for (size_t i = 0; i < current_count; ++i) entry(j - kBatch + i, current[i]);
    std::swap(next, current);
    current_count = next_count;
  }
}

/// Follows a pass over the entries and brings the sums of the rows behind it up to date.
class SumKeeper {
 public:
  SumKeeper(const PackedLayout& layout, uint8_t* packed) : layout_(layout), packed_(packed) {}

  /// A code of `row` grew by `difference`.
  void changed(uint32_t row, int32_t difference) {
    if (row != row_) {
      finish_row();
      row_ = row;
    }
    difference_ += difference;
  }

  /// REQUIRES: called after the last entry.
  void finish() {
    finish_row();
    finish_block();
  }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;

  /// Integer sums change by what the codes do. Float sums are rounded, so that they have to be
  /// added up anew, for which a block is best done at once.
  void finish_row() {
    if (row_ == kNone) return;
    if (!layout_.is_grouped()) {
      uint32_t sum;
      std::memcpy(&sum, packed_ + layout_.sum(row_), sizeof(sum));
      sum +=
          static_cast<uint32_t>(difference_) * static_cast<uint32_t>(layout_.family().sum_factor);
      std::memcpy(packed_ + layout_.sum(row_), &sum, sizeof(sum));
      difference_ = 0;
      return;
    }
    const uint32_t lane = row_ % layout_.block_rows();
    const uint32_t first_row = row_ - lane;
    if (lane_count_ != 0 && first_row != first_row_) finish_block();
    first_row_ = first_row;
    lanes_[lane_count_++] = lane;
  }

  void finish_block() {
    if (lane_count_ == 0) return;
    float sums[PackedLayout::kMaxBlockRows];
    layout_.add_up(packed_ + layout_.block_of(first_row_), lanes_, lane_count_, sums);
    for (size_t j = 0; j < lane_count_; ++j)
      std::memcpy(packed_ + layout_.sum(first_row_ + lanes_[j]), sums + j, sizeof(float));
    lane_count_ = 0;
  }

  const PackedLayout layout_;
  uint8_t* packed_;
  uint32_t row_ = kNone;
  int32_t difference_ = 0;
  uint32_t first_row_ = 0;  // of the block whose touched rows are lanes_
  uint32_t lanes_[PackedLayout::kMaxBlockRows];
  size_t lane_count_ = 0;
};

/// store() and swap().
template <typename Cell, bool kSaves>
void exchange(const PackedLayout& layout, uint8_t* packed, const uint32_t* index, size_t count,
              const uint8_t* values, uint8_t* old_values) {
  using Value = typename Cell::Value;
  const auto* from = reinterpret_cast<const Value*>(values);
  auto* to = reinterpret_cast<Value*>(old_values);
  if (!layout.has_sums()) {
    return for_each_entry(layout, packed, index, count, [=](size_t j, const Locator::Place& place) {
      if (kSaves) to[j] = Cell::read(layout, place.at, place.shift);
      Cell::write(layout, place.at, place.shift, from[j]);
    });
  }
  SumKeeper sums(layout, packed);
  for_each_entry(layout, packed, index, count, [&](size_t j, const Locator::Place& place) {
    const Value old = Cell::read(layout, place.at, place.shift);
    if (kSaves) to[j] = old;
    Cell::write(layout, place.at, place.shift, from[j]);
    sums.changed(place.row, static_cast<int32_t>(from[j]) - static_cast<int32_t>(old));
  });
  sums.finish();
}

}  // namespace

void PackedPatcher::gather(const uint32_t* index, size_t count, uint8_t* out) const {
  with_cell(layout_, [&](auto cell) {
    using Cell = decltype(cell);
    auto* to = reinterpret_cast<typename Cell::Value*>(out);
    for_each_entry(layout_, packed_, index, count, [&](size_t j, const Locator::Place& place) {
      to[j] = Cell::read(layout_, place.at, place.shift);
    });
  });
}

void PackedPatcher::store(const uint32_t* index, size_t count, const uint8_t* values) {
  with_cell(layout_, [&](auto cell) {
    exchange<decltype(cell), false>(layout_, packed_, index, count, values, nullptr);
  });
}

void PackedPatcher::swap(const uint32_t* index, size_t count, const uint8_t* values,
                         uint8_t* old_values) {
  with_cell(layout_, [&](auto cell) {
    exchange<decltype(cell), true>(layout_, packed_, index, count, values, old_values);
  });
}

}  // namespace shira
