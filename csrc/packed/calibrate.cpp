// Every layout of the right size, first at a few places, then everywhere.
// SPDX-License-Identifier: Apache-2.0
#include "packed/calibrate.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "base/checked_math.h"
#include "base/float_bits.h"

namespace shira {
namespace {

constexpr uint32_t kSampleCount = 256;
// A layout that is wrong at more samples is not the base's with changes: it is another one.
constexpr uint32_t kMaxWrongSamples = kSampleCount / 4;

template <typename T>
T load(const uint8_t* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

std::string hex(uint32_t bits) {
  char text[16];
  std::snprintf(text, sizeof(text), "0x%x", bits);
  return text;
}

/// A base and what should be its packing under one layout.
class Comparison {
 public:
  Comparison(const BaseMatrix& base, const PackedLayout& layout, const uint8_t* packed)
      : base_(base), layout_(layout), packed_(packed), element_bytes_(layout.element_bytes()) {}

  /// Of codes at places that are drawn once and for all, how many differ.
  uint32_t wrong_samples() const {
    uint32_t wrong_count = 0;
    uint64_t random = 1;
    const uint64_t code_count = uint64_t{base_.row_count} * base_.column_count;
    for (uint32_t i = 0; i < kSampleCount && wrong_count <= kMaxWrongSamples; ++i) {
      random = random * 6364136223846793005U + 1442695040888963407U;
      const uint64_t position = (random >> 32U) * code_count >> 32U;
      const auto row = static_cast<uint32_t>(position / base_.column_count);
      const auto column = static_cast<uint32_t>(position % base_.column_count);
      wrong_count += packed_code(row, column) != base_code(row, column) ? 1 : 0;
    }
    return wrong_count;
  }

  /// Everything, in the order of `packed`; the first difference is the error.
  Result<void> all() const {
    for (uint32_t row = 0; row < base_.row_count; row += layout_.block_rows())
      SHIRA_TRY(block(row, std::min(layout_.block_rows(), base_.row_count - row)));
    return {};
  }

 private:
  Result<void> block(uint32_t first_row, uint32_t lane_count) const {
    for (uint32_t column = 0; column < base_.column_count; column += layout_.tile_columns()) {
      const uint32_t count = std::min(layout_.tile_columns(), base_.column_count - column);
      for (uint32_t lane = 0; lane < lane_count; ++lane)
        SHIRA_TRY(tile(first_row + lane, column, count));
    }
    for (uint32_t row = first_row; row < first_row + lane_count; ++row) {
      SHIRA_TRY(scales(row));
      const uint64_t bias_bytes = layout_.bias_bytes();
      const uint32_t bias = base_.bias ? bits(base_.bias + row * bias_bytes, bias_bytes) : 0;
      SHIRA_TRY(field("bias", row, bits(packed_ + layout_.bias(row), bias_bytes), bias));
    }
    return layout_.has_sums() ? sums(first_row, lane_count) : Result<void>();
  }

  Result<void> tile(uint32_t row, uint32_t first_column, uint32_t count) const {
    alignas(64) uint8_t codes[PackedLayout::kTileBytes];
    alignas(64) uint8_t unpacked[PackedLayout::kTileBytes];
    layout_.read_codes(packed_, row, first_column, count, codes);
    const uint8_t* expected = base_codes(row, first_column, count, unpacked);
    if (std::memcmp(codes, expected, uint64_t{count} * element_bytes_) != 0) {
      uint32_t column = first_column;
      while (packed_code(row, column) == base_code(row, column)) ++column;
      return different("the code in column " + std::to_string(column), row,
                       printed(packed_code(row, column)), printed(base_code(row, column)));
    }
    return {};
  }

  Result<void> scales(uint32_t row) const {
    const float factor = layout_.family().scale_factor;
    if (layout_.has_row_scales()) {
      const auto scale = load<float>(base_.scales + uint64_t{row} * sizeof(float));
      return field("scale", row, load<uint32_t>(packed_ + layout_.row_scale(row)),
                   bits_from_float(scale * factor));
    }
    const uint32_t group_count = layout_.is_grouped() ? layout_.group_count() : 0;
    for (uint32_t group = 0; group < group_count; ++group) {
      const uint64_t index = uint64_t{row} * group_count + group;
      const auto scale = load<uint16_t>(base_.scales + index * sizeof(uint16_t));
      const auto stored = load<uint16_t>(packed_ + layout_.group_scale(row, group));
      const uint16_t expected = narrow_bf16(widen_bf16(scale) * factor);
      if (stored != expected) return field("scale", row, stored, expected);
      // Sums are computed from stored scales, which must not have lost bits.
      if (bits_from_float(widen_bf16(stored) / factor) != bits_from_float(widen_bf16(scale)))
        return different("a scale", row, hex(stored), "one that is 1/16 of " + hex(scale));
    }
    return {};
  }

  Result<void> sums(uint32_t first_row, uint32_t lane_count) const {
    uint32_t expected[PackedLayout::kMaxBlockRows];
    layout_.add_up_rows(packed_, first_row, lane_count, expected);
    for (uint32_t lane = 0; lane < lane_count; ++lane) {
      const uint32_t row = first_row + lane;
      SHIRA_TRY(field("sum", row, load<uint32_t>(packed_ + layout_.sum(row)), expected[lane]));
    }
    return {};
  }

  static uint32_t bits(const uint8_t* bytes, uint64_t size_bytes) {
    return size_bytes == sizeof(uint16_t) ? load<uint16_t>(bytes) : load<uint32_t>(bytes);
  }

  Result<void> field(const char* what, uint32_t row, uint32_t found, uint32_t expected) const {
    if (found == expected) return {};
    return different(std::string("the ") + what, row, hex(found), hex(expected));
  }

  Error different(const std::string& what, uint32_t row, const std::string& found,
                  const std::string& expected) const {
    return Error{Status::BASE_MODIFIED,
                 what + " of row " + std::to_string(row) + " is " + found +
                     " in the packed weight, and the program gives " + expected + " (" +
                     layout_.describe() + ")",
                 {},
                 base_.name,
                 kNoOffset};
  }

  /// An integer, or a float's bits.
  int64_t packed_code(uint32_t row, uint32_t column) const {
    const CodePlace place = layout_.code(row, column);
    if (layout_.is_nibbles())
      return layout_.nibble(static_cast<uint32_t>(packed_[place.offset_bytes]) >> place.shift);
    return element(packed_ + place.offset_bytes);
  }

  int64_t base_code(uint32_t row, uint32_t column) const {
    if (!layout_.is_nibbles())
      return element(base_.codes + (uint64_t{row} * base_.column_count + column) * element_bytes_);
    uint8_t codes[2];
    base_codes(row, column & ~1U, 2, codes);
    return static_cast<int64_t>(codes[column & 1U]) - 8;
  }

  int64_t element(const uint8_t* bytes) const {
    return element_bytes_ == 1 ? load<int8_t>(bytes) : bits(bytes, element_bytes_);
  }

  std::string printed(int64_t code) const {
    return is_float(base_.dtype) ? hex(static_cast<uint32_t>(code)) : std::to_string(code);
  }

  /// The codes of a part of a row, as PackedLayout::read_codes() gives them. REQUIRES of i4:
  /// first_column is even, and `unpacked` has room for an even number.
  const uint8_t* base_codes(uint32_t row, uint32_t first_column, uint32_t count,
                            uint8_t* unpacked) const {
    if (!layout_.is_nibbles())
      return base_.codes + (uint64_t{row} * base_.column_count + first_column) * element_bytes_;
    const uint64_t row_bytes = (uint64_t{base_.column_count} + 1) / 2;
    const uint8_t* from = base_.codes + row * row_bytes + first_column / 2;
    const unsigned flip = base_.code_bias ^ 8U;
    for (uint32_t b = 0; b < (count + 1) / 2; ++b) {
      unpacked[size_t{2} * b] = static_cast<uint8_t>((from[b] & 15U) ^ flip);
      unpacked[size_t{2} * b + 1] = static_cast<uint8_t>((from[b] >> 4U) ^ flip);
    }
    return unpacked;
  }

  const BaseMatrix& base_;
  const PackedLayout& layout_;
  const uint8_t* packed_;
  const uint32_t element_bytes_;
};

/// Every layout that takes so many bytes.
std::vector<PackedLayout> layouts_of_size(const BaseMatrix& base, uint64_t size_bytes) {
  std::vector<PackedLayout> layouts;
  for (const PackedFamily& family : packed_families()) {
    if (family.dtype != base.dtype) continue;
    for (uint32_t rows = 1; rows <= PackedLayout::kMaxBlockRows; rows *= 2) {
      for (uint32_t piece = 1; piece <= PackedLayout::kMaxPieceLength; piece *= 2) {
        for (uint32_t rotation = 1; rotation <= family.max_rotation; rotation *= 2) {
          const PackedLayout::Parameters parameters = {
              base.row_count, base.column_count, rows, piece, rotation, base.group_length};
          if (!PackedLayout::is_possible(family, parameters)) continue;
          const PackedLayout layout(family, parameters);
          const uint64_t needed_bytes = layout.size_bytes();
          if (size_bytes == needed_bytes || size_bytes == align_up(needed_bytes, 16) ||
              size_bytes == align_up(needed_bytes, 64)) {
            layouts.push_back(layout);
          }
        }
      }
    }
  }
  return layouts;
}

/// True when it makes no difference which of them is used.
bool agree(const PackedLayout& a, const PackedLayout& b) {
  // Float sums depend on the pieces even where the positions do not.
  const bool same_sums =
      &a.family() == &b.family() && a.parameters().block_rows == b.parameters().block_rows &&
      (!a.is_grouped() || a.parameters().piece_length == b.parameters().piece_length);
  if (!same_sums) return false;
  for (uint32_t row = 0; row < std::min(a.row_count(), a.block_rows()); ++row) {
    for (uint32_t column = 0; column < a.column_count(); ++column) {
      const CodePlace place_a = a.code(row, column);
      const CodePlace place_b = b.code(row, column);
      if (place_a.offset_bytes != place_b.offset_bytes || place_a.shift != place_b.shift)
        return false;
    }
  }
  return a.block_bytes() == b.block_bytes();
}

std::string named(const BaseMatrix& base) {
  return "a " + std::to_string(base.row_count) + " x " + std::to_string(base.column_count) + " " +
         dtype_name(base.dtype) + " weight";
}

Error not_supported(const BaseMatrix& base, std::string message) {
  return Error{Status::NOT_SUPPORTED, std::move(message), {}, base.name, kNoOffset};
}

}  // namespace

Result<PackedLayout> calibrate(const BaseMatrix& base, const uint8_t* packed, uint64_t size_bytes) {
  const std::vector<PackedLayout> layouts = layouts_of_size(base, size_bytes);
  if (layouts.empty()) {
    return not_supported(base, "no known packing of " + named(base) + " takes " +
                                   std::to_string(size_bytes) + " bytes");
  }
  const PackedLayout* found = nullptr;
  uint32_t fewest_wrong = kMaxWrongSamples + 1;
  Error nearest =
      not_supported(base, "none of the " + std::to_string(layouts.size()) + " known packings of " +
                              named(base) + " that take " + std::to_string(size_bytes) +
                              " bytes puts its codes where they are");
  for (const PackedLayout& layout : layouts) {
    const Comparison comparison(base, layout, packed);
    const uint32_t wrong_count = comparison.wrong_samples();
    if (wrong_count > kMaxWrongSamples) continue;
    const Result<void> compared = comparison.all();
    if (!compared.ok()) {
      if (wrong_count < fewest_wrong) {
        nearest = compared.error();
        fewest_wrong = wrong_count;
      }
    } else if (found == nullptr) {
      found = &layout;
    } else if (!agree(*found, layout)) {
      return not_supported(base, "its values do not tell two packings apart: " + found->describe() +
                                     " and " + layout.describe());
    }
  }
  if (found == nullptr) return nearest;
  return *found;
}

}  // namespace shira
