// Counts and lists the positions of masks that follow from a rule.
// SPDX-License-Identifier: Apache-2.0
#include "format/mask_rule.h"

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>

#include "format/run_merger.h"

namespace shira {
namespace {

Error bad_rule(std::string message) {
  return Error{Status::BAD_INDEX, std::move(message), {}, {}, 0};
}

// --- structured masks

constexpr uint8_t kAllParts = MaskRule::kRowPart | MaskRule::kColumnPart | MaskRule::kDiagonalPart;

/// How many of the numbers 0 to limit - 1 are `phase` modulo `period`.
uint64_t count_congruent(uint64_t limit, const MaskRule& rule) {
  return limit > rule.phase ? (limit - rule.phase - 1) / rule.period + 1 : 0;
}

/// nnz of a structured mask, without listing it.
uint64_t count_structured(const MaskRule& rule) {
  const uint64_t columns = rule.columns;
  const uint64_t rows = rule.element_count / columns;
  const bool has_rows = (rule.parts & MaskRule::kRowPart) != 0;
  const bool has_columns = (rule.parts & MaskRule::kColumnPart) != 0;
  const uint64_t row_count = has_rows ? count_congruent(rows, rule) : 0;
  const uint64_t column_count = has_columns ? count_congruent(columns, rule) : 0;
  uint64_t count = row_count * columns + column_count * (rows - row_count);
  if ((rule.parts & MaskRule::kDiagonalPart) != 0) {
    // Element (i, i) is in a row or column of the mask when i is congruent.
    const uint64_t diagonal = std::min(rows, columns);
    count += diagonal - (has_rows || has_columns ? count_congruent(diagonal, rule) : 0);
  }
  return count;
}

/// Calls append(start, length) for pieces of the mask in ascending order; they may touch.
template <typename Append>
void walk_structured(const MaskRule& rule, Append append) {
  const uint64_t columns = rule.columns;
  const uint64_t rows = rule.element_count / columns;
  const bool has_rows = (rule.parts & MaskRule::kRowPart) != 0;
  const bool has_columns = (rule.parts & MaskRule::kColumnPart) != 0;
  const bool has_diagonal = (rule.parts & MaskRule::kDiagonalPart) != 0;
  for (uint64_t row = 0; row < rows; ++row) {
    const uint64_t begin = row * columns;
    if (has_rows && row % rule.period == rule.phase) {
      append(begin, columns);
      continue;
    }
    uint64_t diagonal = has_diagonal ? row : columns;  // from `columns` on none is left
    for (uint64_t column = has_columns ? rule.phase : columns; column < columns;
         column += rule.period) {
      if (diagonal < column) {
        append(begin + diagonal, 1);
        diagonal = columns;
      } else if (diagonal == column) {
        diagonal = columns;
      }
      append(begin + column, 1);
    }
    if (diagonal < columns) append(begin + diagonal, 1);
  }
}

Result<IndexList> expand_structured(const MaskRule& rule) {
  /// From this mean length on, runs are the better list: a run costs twice the memory of an entry
  /// and a copy of its own.
  constexpr uint64_t kLeastMeanRunLength = 4;
  RunMerger counter(nullptr);
  walk_structured(rule, [&](uint64_t start, uint64_t length) { counter.append(start, length); });
  IndexList list;
  list.entry_count = counter.entry_count();
  if (counter.entry_count() >= kLeastMeanRunLength * counter.run_count()) {
    SHIRA_ASSIGN(list.runs, Array<Run>::make(counter.run_count()));
    RunMerger merger(list.runs.data());
    walk_structured(rule, [&](uint64_t start, uint64_t length) { merger.append(start, length); });
    return list;
  }
  SHIRA_ASSIGN(list.entries, Array<uint32_t>::make(counter.entry_count()));
  uint32_t* out = list.entries.data();
  walk_structured(rule, [&](uint64_t start, uint64_t length) {
    for (uint64_t i = 0; i < length; ++i) *out++ = static_cast<uint32_t>(start + i);
  });
  return list;
}

// --- random masks

uint64_t split_mix_64(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
  return z ^ (z >> 31);
}

/// Calls keep(block) for every block of the mask, strictly ascending.
template <typename Keep>
void walk_random(const MaskRule& rule, Keep keep) {
  const uint64_t block_count = rule.element_count / rule.block_length;
  uint64_t state = rule.seed;
  uint64_t begin = 0;  // of the stratum
  for (uint64_t unit = 0; unit < rule.unit_count; ++unit) {
    state += 0x9E3779B97F4A7C15U;
    const uint64_t end = (unit + 1) * block_count / rule.unit_count;  // both are below 2^32
    keep(begin + (((split_mix_64(state) >> 32) * (end - begin)) >> 32));
    begin = end;
  }
}

Result<IndexList> expand_random(const MaskRule& rule) {
  IndexList list;
  list.entry_count = rule.entry_count;
  if (rule.block_length == 1) {
    SHIRA_ASSIGN(list.entries, Array<uint32_t>::make(rule.unit_count));
    uint32_t* out = list.entries.data();
    walk_random(rule, [&](uint64_t position) { *out++ = static_cast<uint32_t>(position); });
    return list;
  }
  const uint64_t length = rule.block_length;
  SHIRA_ASSIGN(list.runs, Array<Run>::make(rule.unit_count));
  RunMerger merger(list.runs.data());
  walk_random(rule, [&](uint64_t block) { merger.append(block * length, length); });
  list.runs.truncate(merger.run_count());
  return list;
}

// --- masks of the largest magnitudes

/// The magnitude of element `i`: its bits without the sign.
template <typename Bits>
uint32_t magnitude(const uint8_t* base, uint64_t i) {
  constexpr Bits kMask = static_cast<Bits>(static_cast<Bits>(~Bits{0}) >> 1);
  Bits bits;
  __builtin_memcpy(&bits, base + i * sizeof(Bits), sizeof(Bits));
  return static_cast<uint32_t>(bits & kMask);
}

/// The magnitude of the smallest element that is taken, and how many of that magnitude are.
struct Threshold {
  uint32_t magnitude = 0;
  uint64_t tie_count = 0;
};

/// Finds it digit by digit from the top: a histogram of each digit over the elements that share
/// all higher digits.
template <typename Bits>
Threshold find_threshold(const uint8_t* base, uint64_t element_count, uint64_t wanted_count) {
  constexpr unsigned kDigitBits = 11;
  unsigned shift = 8 * sizeof(Bits) - 1;  // digits above it are known
  Threshold threshold{0, wanted_count};
  while (shift > 0) {
    const unsigned known_shift = shift;
    const unsigned width = std::min(shift, kDigitBits);
    shift -= width;
    const uint32_t digit_mask = (uint32_t{1} << width) - 1;
    uint32_t histogram[uint32_t{1} << kDigitBits] = {};
    for (uint64_t i = 0; i < element_count; ++i) {
      const uint32_t m = magnitude<Bits>(base, i);
      if ((m >> known_shift) == (threshold.magnitude >> known_shift)) {
        ++histogram[(m >> shift) & digit_mask];
      }
    }
    uint32_t digit = digit_mask;
    for (; digit > 0 && histogram[digit] < threshold.tie_count; --digit) {
      threshold.tie_count -= histogram[digit];
    }
    threshold.magnitude |= digit << shift;
  }
  return threshold;
}

template <typename Bits>
Result<IndexList> select_largest(const MaskRule& rule, const uint8_t* base) {
  IndexList list;
  list.entry_count = rule.entry_count;
  SHIRA_ASSIGN(list.entries, Array<uint32_t>::make(rule.entry_count));
  Threshold threshold = find_threshold<Bits>(base, rule.element_count, rule.entry_count);
  uint64_t count = 0;
  for (uint64_t i = 0; count < rule.entry_count && i < rule.element_count; ++i) {
    const uint32_t m = magnitude<Bits>(base, i);
    if (m < threshold.magnitude) continue;
    if (m == threshold.magnitude) {
      if (threshold.tie_count == 0) continue;
      --threshold.tie_count;
    }
    list.entries[count++] = static_cast<uint32_t>(i);
  }
  return list;
}

}  // namespace

Result<MaskRule> parse_mask_rule(const IndexStream& stream) {
  MaskRule rule;
  rule.codec = stream.codec;
  rule.element_count = stream.element_count;
  rule.entry_count = stream.entry_count;
  rule.unit_count = stream.unit_count;
  rule.block_length = stream.block_length;
  if (stream.codec == IndexCodec::random) {
    rule.seed = stream.bytes.u64(0);
    const uint64_t block_count = rule.element_count / rule.block_length;
    if (rule.unit_count > block_count) {
      return bad_rule("a random mask of " + std::to_string(rule.unit_count) +
                      " blocks does not fit the tensor's " + std::to_string(block_count));
    }
  }
  if (stream.codec != IndexCodec::structured) return rule;
  rule.parts = stream.bytes.u8(0);
  rule.columns = stream.bytes.u32(4);
  rule.period = stream.bytes.u32(8);
  rule.phase = stream.bytes.u32(12);
  if (rule.parts == 0 || (rule.parts & ~kAllParts) != 0) {
    return bad_rule("the parts of a structured mask are " + std::to_string(rule.parts) +
                    ", not rows, columns and diagonal");
  }
  if (stream.bytes.u32(0) >> 8 != 0) return bad_rule("reserved bytes of a structured mask are set");
  if (rule.columns == 0 || rule.element_count % rule.columns != 0) {
    return bad_rule("a structured mask of " + std::to_string(rule.columns) +
                    " columns does not divide the tensor of " + std::to_string(rule.element_count) +
                    " elements");
  }
  if (rule.phase >= rule.period) {
    return bad_rule("the phase " + std::to_string(rule.phase) +
                    " of a structured mask is not below its period " + std::to_string(rule.period));
  }
  if (rule.parts == MaskRule::kDiagonalPart && rule.period != 1) {
    return bad_rule("a structured mask of the diagonal alone has the period " +
                    std::to_string(rule.period) + ", not 1");
  }
  const uint64_t count = count_structured(rule);
  if (count != rule.entry_count) {
    return bad_rule("the structured mask has " + std::to_string(count) + " entries, but nnz is " +
                    std::to_string(rule.entry_count));
  }
  return rule;
}

Result<IndexList> expand_mask(const MaskRule& rule) {
  return rule.codec == IndexCodec::random ? expand_random(rule) : expand_structured(rule);
}

Result<IndexList> select_top_magnitude(const MaskRule& rule, Dtype dtype, const void* base) {
  const auto* bytes = static_cast<const uint8_t*>(base);
  return dtype_bytes(dtype) == 4 ? select_largest<uint32_t>(rule, bytes)
                                 : select_largest<uint16_t>(rule, bytes);
}

}  // namespace shira
