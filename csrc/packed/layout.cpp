// The table of families, and what follows from a line of it.
// SPDX-License-Identifier: Apache-2.0
#include "packed/layout.h"

#include <algorithm>
#include <cstring>

#include "base/checked_math.h"

namespace shira {

// XNNPACK's names begin with x, KleidiAI's with k; c has scales per channel, b per block of
// columns.
const std::vector<PackedFamily>& packed_families() {
  static const std::vector<PackedFamily> kFamilies = {
      // name  dtype  fields  sum factor, scale factor, code bias, nibble distance, multiple,
      // rotation
      {"x8", Dtype::i8, "ncsb", -1, 1.0F, 0, 0, 0, 8},
      {"k8", Dtype::i8, "cnsb", 1, 1.0F, 0, 0, 32, 1},
      {"xb4", Dtype::i4, "ncb", -1, 1.0F / 16, 0, 0, 0, 1},
      {"kb4", Dtype::i4, "cnb", 1, 1.0F, 0, 16, 32, 1},
      {"xc4", Dtype::i4, "ncsb", -16, 1.0F, 0, 0, 0, 1},
      {"xc4u", Dtype::i4, "ncsb", -1, 1.0F, 8, 0, 0, 1},
      {"kc4", Dtype::i4, "cnsb", 16, 1.0F / 16, 0, 16, 32, 1},
      {"f32", Dtype::f32, "bc", 0, 1.0F, 0, 0, 0, 8},
      {"f16", Dtype::f16, "bc", 0, 1.0F, 0, 0, 0, 8},
  };
  return kFamilies;
}

namespace {

uint32_t log2_of(uint32_t power) { return static_cast<uint32_t>(__builtin_ctz(power)); }

bool is_grouped(const PackedFamily& family) {
  return family.dtype == Dtype::i4 && std::strchr(family.fields, 's') == nullptr;
}

/// Columns of which the pieces are complete.
uint32_t granule_columns(const PackedFamily& family, const PackedLayout::Parameters& parameters) {
  const uint32_t unit_count = parameters.piece_length * parameters.rotation;
  if (family.dtype != Dtype::i4) return unit_count;
  return 2 * std::max<uint32_t>(unit_count, family.nibble_distance);
}

}  // namespace

bool PackedLayout::is_possible(const PackedFamily& family, const Parameters& parameters) {
  const uint64_t code_count = uint64_t{parameters.row_count} * parameters.column_count;
  if (code_count == 0 || code_count > UINT32_MAX || parameters.column_count > UINT32_MAX / 2 ||
      shira::is_grouped(family) != (parameters.group_length != 0) ||
      parameters.rotation > family.max_rotation) {
    return false;
  }
  const uint32_t granule = granule_columns(family, parameters);
  if (family.column_multiple % granule != 0) return false;
  return parameters.group_length == 0 || (parameters.column_count % parameters.group_length == 0 &&
                                          parameters.group_length % granule == 0);
}

PackedLayout::PackedLayout(const PackedFamily& family, const Parameters& parameters)
    : family_(&family),
      parameters_(parameters),
      piece_shift_(log2_of(parameters.piece_length)),
      element_shift_(log2_of(static_cast<uint32_t>(dtype_bytes(family.dtype)))),
      nibble_shift_(family.dtype != Dtype::i4     ? 31
                    : family.nibble_distance != 0 ? log2_of(family.nibble_distance)
                                                  : piece_shift_),
      nibble_flip_(family.code_bias ^ 8U),
      rotation_mask_(parameters.rotation - 1) {
  const uint32_t granule = granule_columns(family, parameters);
  const uint64_t padded_columns =
      align_up(parameters.column_count, std::max<uint64_t>(family.column_multiple, granule));
  uint64_t codes_bytes = (padded_columns * block_rows()) << element_shift_;
  if (is_nibbles()) codes_bytes /= 2;
  if (is_grouped()) {
    codes_bytes = group_count() * group_bytes();
    group_divider_ = Divider(parameters.group_length);
  }
  const uint64_t bias_bytes = is_float(family.dtype) ? element_bytes() : sizeof(float);
  for (const char* field = family.fields; *field != '\0'; ++field) {
    uint64_t* offset = *field == 'b'   ? &bias_offset_
                       : *field == 'c' ? &codes_offset_
                       : *field == 's' ? &scales_offset_
                                       : &sums_offset_;
    *offset = block_bytes_;
    block_bytes_ += *field == 'c'   ? codes_bytes
                    : *field == 'b' ? bias_bytes * block_rows()
                                    : sizeof(float) * block_rows();
  }
}

std::string PackedLayout::describe() const {
  return std::string(family_->name) + " nr=" + std::to_string(parameters_.block_rows) +
         " kr=" + std::to_string(parameters_.piece_length) +
         " sr=" + std::to_string(parameters_.rotation);
}

// --- Whole rows, a piece at a time. A piece's length is known when this is compiled.

namespace {

/// Calls body(std::integral_constant) with the bytes of a piece.
template <typename Body>
void with_piece_bytes(uint32_t piece_bytes, Body body) {
  switch (piece_bytes) {
    case 1:
      return body(std::integral_constant<unsigned, 1>());
    case 2:
      return body(std::integral_constant<unsigned, 2>());
    case 4:
      return body(std::integral_constant<unsigned, 4>());
    case 8:
      return body(std::integral_constant<unsigned, 8>());
    case 16:
      return body(std::integral_constant<unsigned, 16>());
    case 32:
      return body(std::integral_constant<unsigned, 32>());
    default:
      return body(std::integral_constant<unsigned, 64>());
  }
}

constexpr uint64_t kLowNibbles = 0x0F0F0F0F0F0F0F0FU;
constexpr uint64_t kOnes = 0x0101010101010101U;

}  // namespace

void PackedLayout::read_codes(const uint8_t* packed, uint32_t row, uint32_t first_column,
                              uint32_t count, uint8_t* out) const {
  const uint32_t granule = granule_columns(*family_, parameters_);
  const auto padded = static_cast<uint32_t>(align_up(count, granule));
  const uint32_t first_unit = unit_of(first_column);
  const uint32_t end_unit = unit_of(first_column + padded);
  const uint8_t* codes = packed + block_of(row) + codes_offset_;
  with_piece_bytes(parameters_.piece_length << element_shift_, [&](auto piece_bytes) {
    read_pieces<piece_bytes>(codes, row % block_rows(), first_unit, end_unit, out);
  });
}

template <unsigned kPieceBytes>
void PackedLayout::read_pieces(const uint8_t* codes, uint32_t lane, uint32_t first_unit,
                               uint32_t end_unit, uint8_t* out) const {
  const uint32_t length = parameters_.piece_length;
  const uint32_t group_units = is_grouped() ? parameters_.group_length / 2 : UINT32_MAX;
  const uint32_t first_column = 2 * first_unit;  // of nibbles
  for (uint32_t unit = first_unit; unit < end_unit;) {
    const uint32_t group = unit / group_units;
    const uint32_t stop = is_grouped() ? std::min(end_unit, (group + 1) * group_units) : end_unit;
    const uint8_t* from = codes + group * group_scales_bytes() +
                          (uint64_t{unit} * block_rows() << element_shift_) + lane * kPieceBytes;
    const uint64_t step_bytes = uint64_t{block_rows()} * kPieceBytes;
    for (; unit < stop; unit += length, from += step_bytes) {
      if (!is_nibbles()) {
        const uint32_t piece = unit >> piece_shift_;
        const uint32_t target = (piece & ~rotation_mask_) | ((piece + lane) & rotation_mask_);
        const uint32_t skip = (target << piece_shift_) - first_unit;
        std::memcpy(out + (uint64_t{skip} << element_shift_), from, kPieceBytes);
        continue;
      }
      const uint32_t low_bits = (1U << nibble_shift_) - 1U;
      uint8_t* low = out + (unit & low_bits) + ((unit & ~low_bits) << 1) - first_column;
      uint8_t* high = low + low_bits + 1;
      for (unsigned b = 0; b < kPieceBytes; ++b) {
        low[b] = static_cast<uint8_t>(nibble(from[b]));
        high[b] = static_cast<uint8_t>(nibble(from[b] >> 4U));
      }
    }
  }
}

void PackedLayout::add_up(const uint8_t* block, const uint32_t* lanes, size_t lane_count,
                          float* sums) const {
  with_piece_bytes(parameters_.piece_length, [&](auto piece_bytes) {
    add_up_pieces<piece_bytes>(block, lanes, lane_count, sums);
  });
}

template <unsigned kPieceBytes>
void PackedLayout::add_up_pieces(const uint8_t* block, const uint32_t* lanes, size_t lane_count,
                                 float* sums) const {
  constexpr unsigned kWordBytes = kPieceBytes < 8 ? kPieceBytes : 8;
  const uint64_t flip = kOnes * (nibble_flip_ * 0x11U) >> (64 - 8 * kWordBytes);
  const uint64_t step_bytes = uint64_t{block_rows()} * kPieceBytes;
  const uint32_t piece_count = parameters_.group_length / 2 / kPieceBytes;
  const float unscale = 1.0F / family_->scale_factor;
  const int32_t factor = family_->sum_factor;
  float scales[kMaxBlockRows];
  std::fill_n(sums, lane_count, 0.0F);
  const uint8_t* codes = block + codes_offset_;
  for (uint32_t group = 0; group < group_count(); ++group, codes += group_bytes()) {
    for (size_t j = 0; j < lane_count; ++j) {
      uint16_t bits;
      std::memcpy(&bits, codes + group_codes_bytes() + lanes[j] * sizeof(bits), sizeof(bits));
      scales[j] = widen_bf16(bits) * unscale;
    }
    const uint8_t* pieces = codes;
    for (uint32_t piece = 0; piece < piece_count; ++piece, pieces += step_bytes) {
      for (size_t j = 0; j < lane_count; ++j) {
        uint64_t total = 0;
        for (unsigned b = 0; b < kPieceBytes; b += kWordBytes) {
          uint64_t word = 0;
          std::memcpy(&word, pieces + lanes[j] * kPieceBytes + b, kWordBytes);
          word ^= flip;
          total += ((word & kLowNibbles) + (word >> 4U & kLowNibbles)) * kOnes >> 56U;
        }
        const int32_t sum = static_cast<int32_t>(total) - static_cast<int32_t>(16 * kPieceBytes);
        sums[j] += static_cast<float>(factor * sum) * scales[j];
      }
    }
  }
}

}  // namespace shira
