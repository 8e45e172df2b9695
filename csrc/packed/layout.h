// PackedLayout: where XNNPACK and KleidiAI put every number of a weight matrix they have packed.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/float_bits.h"

namespace shira {

/// One way of packing, whatever its sizes: a line of the table in layout.cpp.
struct PackedFamily {
  const char* name;
  Dtype dtype;  // of the codes: f32, f16, i8 or i4
  /// The order of a block's fields: 'b' a bias per row, 'c' the codes, 's' an f32 scale per row,
  /// 'n' a sum per row. Where codes of 4 bits come without 's', every group of columns ends with
  /// one bf16 scale per row, and sums are f32; else they are int32.
  const char* fields;
  int32_t sum_factor;       // sum = sum_factor * (sum of the codes, times their scales if grouped)
  float scale_factor;       // stored scale = scale_factor * scale
  uint8_t code_bias;        // i4: what is added to a code to store it, 0 (two's complement) or 8
  uint8_t nibble_distance;  // i4: columns from a byte's low nibble to its high one; 0: a piece
  uint8_t column_multiple;  // columns are padded to a multiple of it; 0: of what pieces need
  uint8_t max_rotation;     // the largest PackedLayout::rotation that is looked for
};

/// All families that are known.
const std::vector<PackedFamily>& packed_families();

/// Quotients by a number that is the same for many: one multiplication each.
class Divider {
 public:
  /// Gives 0 for everything.
  Divider() = default;
  /// REQUIRES: divisor >= 2.
  explicit Divider(uint32_t divisor) : reciprocal_(UINT64_MAX / divisor + 1) {}
  uint32_t quotient(uint32_t number) const {
    return static_cast<uint32_t>((static_cast<unsigned __int128>(reciprocal_) * number) >> 64);
  }

 private:
  uint64_t reciprocal_ = 0;
};

/// The byte that holds a code, and the bit at which it starts there: 0 or 4.
struct CodePlace {
  uint64_t offset_bytes;
  uint32_t shift;
};

/// The packing of one matrix. Rows lie in blocks of `block_rows`; in the codes of a block, the rows
/// take turns with pieces of `piece_length` bytes, or elements if they are floats. With a rotation,
/// row i of a block begins every group of `rotation` pieces with the i-th one.
class PackedLayout {
 public:
  static constexpr uint32_t kMaxBlockRows = 128;
  static constexpr uint32_t kMaxPieceLength = 16;
  static constexpr uint32_t kTileBytes = 512;

  struct Parameters {
    uint32_t row_count = 0;
    uint32_t column_count = 0;
    uint32_t block_rows = 1;    // nr
    uint32_t piece_length = 1;  // kr, of KleidiAI's nibbles kr / sr; a power of two
    uint32_t rotation = 1;      // sr; a power of two
    uint32_t group_length = 0;  // columns that share a bf16 scale; 0: scales per row, or none
  };

  /// REQUIRES: is_possible(family, parameters).
  PackedLayout(const PackedFamily& family, const Parameters& parameters);

  /// False where pieces do not fit into groups, and where the matrix has no codes, more than 2^32 -
  /// 1 or more than 2^30 columns.
  static bool is_possible(const PackedFamily& family, const Parameters& parameters);

  const PackedFamily& family() const { return *family_; }
  const Parameters& parameters() const { return parameters_; }
  uint32_t row_count() const { return parameters_.row_count; }
  uint32_t column_count() const { return parameters_.column_count; }
  uint32_t block_rows() const { return parameters_.block_rows; }
  bool has_sums() const { return sums_offset_ != kAbsent; }
  bool has_row_scales() const { return scales_offset_ != kAbsent; }
  bool is_grouped() const { return parameters_.group_length != 0; }
  uint32_t group_count() const { return parameters_.column_count / parameters_.group_length; }
  uint32_t element_bytes() const { return 1U << element_shift_; }
  /// Of one row's, which every family stores as it is: f32 beside codes, else as the weight.
  uint32_t bias_bytes() const {
    return is_float(family_->dtype) ? element_bytes() : static_cast<uint32_t>(sizeof(float));
  }
  bool is_nibbles() const { return family_->dtype == Dtype::i4; }
  uint64_t block_bytes() const { return block_bytes_; }

  /// What the blocks take. A cache entry may be longer, up to a multiple of 16 or 64.
  uint64_t size_bytes() const { return block_count() * block_bytes_; }
  uint64_t block_count() const {
    return (uint64_t{parameters_.row_count} + block_rows() - 1) / block_rows();
  }

  // Where things lie, in bytes from the beginning. REQUIRES: row, column, group < their count, and
  // that the family has the field.
  uint64_t block_of(uint32_t row) const { return row / block_rows() * block_bytes_; }
  CodePlace code(uint32_t row, uint32_t column) const {
    return code_in_row(block_of(row), row % block_rows(), column);
  }
  uint64_t sum(uint32_t row) const { return field(row, sums_offset_, sizeof(uint32_t)); }
  uint64_t row_scale(uint32_t row) const { return field(row, scales_offset_, sizeof(float)); }
  uint64_t bias(uint32_t row) const { return field(row, bias_offset_, bias_bytes()); }
  uint64_t group_scale(uint32_t row, uint32_t group) const {
    return field(row, codes_offset_ + group_codes_bytes() + group * group_bytes(),
                 sizeof(uint16_t));
  }

  /// code() for a caller that knows the row's block and its number in there.
  CodePlace code_in_row(uint64_t block_offset_bytes, uint32_t lane, uint32_t column) const {
    // Without nibbles nibble_shift_ is 31, and without groups every quotient 0: no case to tell.
    const uint32_t shift = (column >> nibble_shift_ & 1U) * 4U;
    const uint32_t unit = unit_of(column);
    uint32_t piece = unit >> piece_shift_;
    piece = (piece & ~rotation_mask_) | ((piece - lane) & rotation_mask_);
    const uint64_t slot = uint64_t{piece} * block_rows() + lane;
    const uint64_t inside = unit & (parameters_.piece_length - 1);
    return {block_offset_bytes + codes_offset_ +
                (((slot << piece_shift_) | inside) << element_shift_) +
                uint64_t{group_divider_.quotient(column)} * group_scales_bytes(),
            shift};
  }

  /// The code whose byte, shifted to its nibble, is `bits`.
  int8_t nibble(uint32_t bits) const {
    return static_cast<int8_t>(static_cast<int>((bits & 15U) ^ nibble_flip_) - 8);
  }
  /// The four bits of a code.
  uint32_t nibble_bits(int8_t code) const {
    return (static_cast<uint32_t>(code + 8) ^ nibble_flip_) & 15U;
  }

  /// Writes the codes of columns [first_column, first_column + count) of a row: as floats of
  /// element_bytes(), as int8, or of i4 each plus 8. REQUIRES: first_column is a multiple of
  /// tile_columns(), count is at most that, and `out` has kTileBytes.
  uint32_t tile_columns() const { return kTileBytes >> element_shift_; }
  void read_codes(const uint8_t* packed, uint32_t row, uint32_t first_column, uint32_t count,
                  uint8_t* out) const;

  /// sums[j] = the sum of row `lanes[j]` of a block, of what its codes and scales are now: added up
  /// in the order in which packing does it, so that the same codes give the same bits. REQUIRES:
  /// is_grouped(), the lanes ascend, and the thread rounds to nearest and keeps subnormals.
  void add_up(const uint8_t* block, const uint32_t* lanes, size_t lane_count, float* sums) const;

  /// sums[j] = the bits that packing stores as the sum of row first_row + j, of what its codes and
  /// scales are now. REQUIRES: has_sums(), first_row begins a block, which has the row_count rows,
  /// and the thread rounds to nearest and keeps subnormals.
  void add_up_rows(const uint8_t* packed, uint32_t first_row, uint32_t row_count,
                   uint32_t* sums) const;

  /// "x8 nr=8 kr=4 sr=1"
  std::string describe() const;

 private:
  static constexpr uint64_t kAbsent = UINT64_MAX;

  /// The byte or element of a row that has the column.
  uint32_t unit_of(uint32_t column) const {
    const uint32_t low_bits = (1U << nibble_shift_) - 1U;
    return (column & low_bits) | ((column & ~low_bits) >> 1 & ~low_bits);
  }
  uint64_t field(uint32_t row, uint64_t offset, uint64_t field_bytes) const {
    return block_of(row) + offset + row % block_rows() * field_bytes;
  }
  uint64_t group_codes_bytes() const {
    return uint64_t{parameters_.group_length} / 2 * block_rows();
  }
  uint64_t group_scales_bytes() const { return block_rows() * sizeof(uint16_t); }
  uint64_t group_bytes() const { return group_codes_bytes() + group_scales_bytes(); }

  template <unsigned kPieceBytes, typename Lane>
  void add_up_pieces(const uint8_t* block, Lane lane, size_t lane_count, float* sums) const;

  const PackedFamily* family_;
  Parameters parameters_;
  uint32_t piece_shift_;    // 1 << piece_shift_ is piece_length
  uint32_t element_shift_;  // of a float's bytes
  uint32_t nibble_shift_;   // 1 << nibble_shift_ is the distance of a byte's nibbles in columns
  uint32_t nibble_flip_;
  uint32_t rotation_mask_;
  Divider group_divider_;
  uint64_t sums_offset_ = kAbsent;
  uint64_t codes_offset_ = kAbsent;
  uint64_t scales_offset_ = kAbsent;
  uint64_t bias_offset_ = kAbsent;
  uint64_t block_bytes_ = 0;
};

}  // namespace shira
