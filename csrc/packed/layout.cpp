// The table of families, and what follows from a line of it.
// SPDX-License-Identifier: Apache-2.0
#include "packed/layout.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

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

constexpr uint32_t kMaxColumns = 1U << 30;  // rounded up to whole pieces they stay below 2^31

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
  if (code_count == 0 || code_count > UINT32_MAX || parameters.column_count > kMaxColumns ||
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
  for (const char* field = family.fields; *field != '\0'; ++field) {
    uint64_t* offset = *field == 'b'   ? &bias_offset_
                       : *field == 'c' ? &codes_offset_
                       : *field == 's' ? &scales_offset_
                                       : &sums_offset_;
    *offset = block_bytes_;
    block_bytes_ += *field == 'c'   ? codes_bytes
                    : *field == 'b' ? uint64_t{bias_bytes()} * block_rows()
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

/// Puts the pieces of one row together. With a rotation, `first` of them lie before `out`.
template <unsigned kPieceBytes>
void gather_pieces(const uint8_t* from, uint64_t step_bytes, uint32_t first, uint32_t count,
                   uint32_t rotation_mask, uint32_t lane, uint8_t* out) {
  if (rotation_mask == 0) {
    for (uint32_t i = 0; i < count; ++i)
      std::memcpy(out + uint64_t{i} * kPieceBytes, from + i * step_bytes, kPieceBytes);
    return;
  }
  for (uint32_t piece = first; piece < first + count; ++piece, from += step_bytes) {
    const uint32_t to = (piece & ~rotation_mask) | ((piece + lane) & rotation_mask);
    std::memcpy(out + uint64_t{to - first} * kPieceBytes, from, kPieceBytes);
  }
}

/// Both nibbles of every byte, `kDistance` columns apart.
template <unsigned kDistance>
void split_nibbles(const uint8_t* units, uint32_t count, uint8_t flip, uint8_t* out) {
  for (uint32_t i = 0; i < count;
       i += kDistance, units += kDistance, out += size_t{2} * kDistance) {
    uint8_t* high = out + kDistance;
    for (unsigned b = 0; b < kDistance; ++b) {
      out[b] = static_cast<uint8_t>((units[b] & 15U) ^ flip);
      high[b] = static_cast<uint8_t>((units[b] >> 4U) ^ flip);
    }
  }
}

// As many sums as fit into the registers of any instruction set, and divide most blocks.
constexpr size_t rows_at_once(unsigned piece_bytes) { return piece_bytes == 1 ? 16 : 4; }

/// The sum of all nibbles of a piece, each with its bits in `flip` inverted.
template <unsigned kPieceBytes>
int32_t sum_of_nibbles(const uint8_t* piece, uint32_t flip) {
  if constexpr (kPieceBytes == 1) {
    const uint32_t byte = *piece ^ (flip & 0xFFU);
    return static_cast<int32_t>((byte & 15U) + (byte >> 4U));
  }
  // Four bytes at a time: of such integers, all instruction sets multiply several at once.
  constexpr unsigned kWordBytes = kPieceBytes < 4 ? kPieceBytes : 4;
  constexpr uint32_t kLowNibbles = 0x0F0F0F0F;
  uint32_t total = 0;
  for (unsigned b = 0; b < kPieceBytes; b += kWordBytes) {
    uint32_t word = 0;
    std::memcpy(&word, piece + b, kWordBytes);
    word ^= flip >> (32 - 8 * kWordBytes);
    const uint32_t pairs = (word & kLowNibbles) + (word >> 4U & kLowNibbles);
    total += pairs * 0x01010101U >> 24U;
  }
  return static_cast<int32_t>(total);
}

}  // namespace

void PackedLayout::read_codes(const uint8_t* packed, uint32_t row, uint32_t first_column,
                              uint32_t count, uint8_t* out) const {
  const uint32_t granule = granule_columns(*family_, parameters_);
  uint32_t unit = unit_of(first_column);
  const uint32_t end = unit_of(first_column + static_cast<uint32_t>(align_up(count, granule)));
  const uint32_t lane = row % block_rows();
  const uint32_t piece_bytes = parameters_.piece_length << element_shift_;
  const uint32_t group_units = is_grouped() ? parameters_.group_length / 2 : end;
  alignas(64) uint8_t unit_bytes[kTileBytes / 2];
  uint8_t* units = is_nibbles() ? unit_bytes : out;
  const uint32_t unit_count = end - unit;
  while (unit < end) {
    const uint32_t group = unit / group_units;
    const uint32_t length = std::min(end, (group + 1) * group_units) - unit;
    const uint8_t* from = packed + block_of(row) + codes_offset_ + group * group_scales_bytes() +
                          (uint64_t{unit} * block_rows() << element_shift_) +
                          uint64_t{lane} * piece_bytes;
    with_piece_bytes(piece_bytes, [&](auto bytes) {
      gather_pieces<bytes>(from, uint64_t{block_rows()} * piece_bytes, unit >> piece_shift_,
                           length >> piece_shift_, rotation_mask_, lane, units);
    });
    units += uint64_t{length} << element_shift_;
    unit += length;
  }
  if (is_nibbles()) {
    with_piece_bytes(1U << nibble_shift_, [&](auto distance) {
      split_nibbles<distance>(unit_bytes, unit_count, static_cast<uint8_t>(nibble_flip_), out);
    });
  }
}

void PackedLayout::add_up_rows(const uint8_t* packed, uint32_t first_row, uint32_t row_count,
                               uint32_t* sums) const {
  if (is_grouped()) {
    uint32_t lanes[kMaxBlockRows];
    float added[kMaxBlockRows];
    for (uint32_t lane = 0; lane < row_count; ++lane) lanes[lane] = lane;
    add_up(packed + block_of(first_row), lanes, row_count, added);
    std::memcpy(sums, added, row_count * sizeof(float));
    return;
  }
  alignas(64) uint8_t codes[kTileBytes];
  for (uint32_t row = first_row; row < first_row + row_count; ++row) {
    int32_t sum = 0;
    for (uint32_t column = 0; column < column_count(); column += tile_columns()) {
      const uint32_t count = std::min(tile_columns(), column_count() - column);
      read_codes(packed, row, column, count, codes);
      if (is_nibbles()) {
        for (uint32_t j = 0; j < count; ++j) sum += codes[j];
        sum -= 8 * static_cast<int32_t>(count);
      } else {
        for (uint32_t j = 0; j < count; ++j) sum += static_cast<int8_t>(codes[j]);
      }
    }
    *sums++ = static_cast<uint32_t>(sum) * static_cast<uint32_t>(family_->sum_factor);
  }
}

void PackedLayout::add_up(const uint8_t* block, const uint32_t* lanes, size_t lane_count,
                          float* sums) const {
  with_piece_bytes(parameters_.piece_length, [&](auto bytes) {
    // All rows of a block lie beside each other, which lets compilers take several at once.
    if (lane_count == block_rows()) {
      add_up_pieces<bytes>(block, [](size_t j) { return j; }, lane_count, sums);
    } else {
      add_up_pieces<bytes>(block, [=](size_t j) { return lanes[j]; }, lane_count, sums);
    }
  });
}

template <unsigned kPieceBytes, typename Lane>
void PackedLayout::add_up_pieces(const uint8_t* block, Lane lane, size_t lane_count,
                                 float* sums) const {
  constexpr uint64_t kLineBytes = 64;
  constexpr size_t kRowsAtOnce = rows_at_once(kPieceBytes);
  const uint64_t step_bytes = uint64_t{block_rows()} * kPieceBytes;
  const uint64_t codes_bytes = group_codes_bytes();
  const uint32_t groups = group_count();
  const uint32_t flip = nibble_flip_ * 0x11111111U;
  const float unscale = static_cast<float>(family_->sum_factor) / family_->scale_factor;
  const uint8_t* codes = block + codes_offset_;
  float added[kMaxBlockRows] = {};
  for (uint32_t group = 0; group < groups; ++group, codes += group_bytes()) {
    for (uint64_t line = 0; line < codes_bytes; line += kLineBytes)
      __builtin_prefetch(codes + block_bytes_ + line);  // the next block's
    const auto add = [&](size_t first, auto count) {
      float scales[count];
      float sum[count];
      for (size_t j = 0; j < count; ++j) {
        uint16_t bits;
        std::memcpy(&bits, codes + codes_bytes + lane(first + j) * sizeof(bits), sizeof(bits));
        scales[j] = widen_bf16(bits) * unscale;
        sum[j] = added[first + j];
      }
      for (uint64_t piece = 0; piece < codes_bytes; piece += step_bytes) {
        for (size_t j = 0; j < count; ++j) {
          const int32_t total =
              sum_of_nibbles<kPieceBytes>(codes + piece + lane(first + j) * kPieceBytes, flip);
          sum[j] += static_cast<float>(total - static_cast<int32_t>(16 * kPieceBytes)) * scales[j];
        }
      }
      std::copy_n(sum, size_t{count}, added + first);
    };
    // Several rows side by side, so that compilers take them at once.
    size_t j = 0;
    for (; j + kRowsAtOnce <= lane_count; j += kRowsAtOnce)
      add(j, std::integral_constant<size_t, kRowsAtOnce>());
    for (; j < lane_count; ++j) add(j, std::integral_constant<size_t, 1>());
  }
  std::copy_n(added, lane_count, sums);
}

}  // namespace shira
