// Packs random matrices by the definition of a layout, one code at a time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/float_bits.h"
#include "packed/base_matrix.h"
#include "packed/layout.h"

namespace shira::test {

inline const PackedFamily& family_named(const std::string& name) {
  for (const PackedFamily& family : packed_families())
    if (name == family.name) return family;
  std::abort();
}

template <typename T>
void put(std::vector<uint8_t>* bytes, uint64_t offset, T value) {
  std::memcpy(&bytes->at(offset + sizeof(T) - 1) - (sizeof(T) - 1), &value, sizeof(T));
}

template <typename T>
T get(const std::vector<uint8_t>& bytes, uint64_t offset) {
  T value;
  std::memcpy(&value, &bytes.at(offset + sizeof(T) - 1) - (sizeof(T) - 1), sizeof(T));
  return value;
}

/// A base with `codes` at its positions, and what packing makes of it.
class BuiltMatrix {
 public:
  BuiltMatrix(const PackedLayout& layout, std::vector<uint32_t> code_bits, unsigned seed = 1)
      : layout(layout), code_bits_(std::move(code_bits)) {
    std::mt19937 random(seed);
    const uint64_t rows = layout.row_count();
    const uint64_t columns = layout.column_count();
    const uint64_t element_bytes = layout.element_bytes();
    bias.resize(rows * (layout.has_sums() ? sizeof(float) : element_bytes));
    for (uint8_t& byte : bias) byte = static_cast<uint8_t>(random() % 64);
    if (layout.is_grouped()) {
      for (uint64_t i = 0; i < rows * layout.group_count(); ++i) {
        const auto bits = static_cast<uint16_t>(0x3800 + random() % 0x780);  // 2^-15 to 1
        scales.insert(scales.end(), {static_cast<uint8_t>(bits), static_cast<uint8_t>(bits >> 8)});
      }
    } else if (layout.has_sums()) {
      scales.resize(rows * sizeof(float));
      for (uint64_t row = 0; row < rows; ++row)
        put(&scales, row * sizeof(float), 0.01F + 0.001F * static_cast<float>(random() % 100));
    }
    const uint64_t row_bytes = layout.is_nibbles() ? (columns + 1) / 2 : columns * element_bytes;
    codes.resize(rows * row_bytes);
    for (uint64_t row = 0; row < rows; ++row) {
      for (uint64_t column = 0; column < columns; ++column) {
        const uint32_t bits = code_bits_[row * columns + column];
        if (layout.is_nibbles()) {
          codes[row * row_bytes + column / 2] |=
              static_cast<uint8_t>(((bits + 8U) & 15U) << (column % 2 * 4));
        } else {
          std::memcpy(&codes[row * row_bytes + column * element_bytes], &bits, element_bytes);
        }
      }
    }
    pack();
  }

  /// With random codes.
  static BuiltMatrix random(const PackedLayout& layout, unsigned seed = 1) {
    std::mt19937 random(seed);
    std::vector<uint32_t> code_bits(uint64_t{layout.row_count()} * layout.column_count());
    for (uint32_t& bits : code_bits) bits = static_cast<uint32_t>(random());
    return BuiltMatrix(layout, std::move(code_bits), seed);
  }

  BaseMatrix base_matrix() const {
    BaseMatrix base;
    base.name = "built";
    base.row_count = layout.row_count();
    base.column_count = layout.column_count();
    base.dtype = layout.family().dtype;
    base.codes = codes.data();
    base.scales = scales.data();
    base.group_length = layout.parameters().group_length;
    base.bias = bias.data();
    return base;
  }

  PackedLayout layout;
  std::vector<uint8_t> codes, scales, bias;
  std::vector<uint8_t> packed;

 private:
  int code(uint64_t row, uint64_t column) const {
    const uint32_t bits = code_bits_[row * layout.column_count() + column];
    return layout.is_nibbles() ? static_cast<int>((bits + 8U) & 15U) - 8
                               : static_cast<int8_t>(bits);
  }

  void pack() {
    packed.assign(layout.size_bytes(), 0);
    const float factor = layout.family().scale_factor;
    for (uint32_t row = 0; row < layout.row_count(); ++row) {
      int32_t sum = 0;
      for (uint32_t column = 0; column < layout.column_count(); ++column) {
        const CodePlace place = layout.code(row, column);
        const uint32_t bits = code_bits_[uint64_t{row} * layout.column_count() + column];
        if (layout.is_nibbles()) {
          const uint32_t stored = layout.nibble_bits(static_cast<int8_t>(code(row, column)));
          packed.at(place.offset_bytes) |= static_cast<uint8_t>(stored << place.shift);
        } else {
          std::memcpy(&packed.at(place.offset_bytes), &bits, layout.element_bytes());
        }
        sum += code(row, column);
      }
      const uint64_t bias_bytes = layout.has_sums() ? sizeof(float) : layout.element_bytes();
      std::memcpy(&packed.at(layout.bias(row)), &bias[row * bias_bytes], bias_bytes);
      if (layout.has_row_scales())
        put(&packed, layout.row_scale(row), get<float>(scales, row * sizeof(float)) * factor);
      if (layout.has_sums() && !layout.is_grouped())
        put(&packed, layout.sum(row), sum * layout.family().sum_factor);
      if (layout.is_grouped()) put(&packed, layout.sum(row), grouped_sum(row));
    }
  }

  /// Stores the scales too.
  float grouped_sum(uint32_t row) {
    const uint32_t group_length = layout.parameters().group_length;
    // The columns whose codes one piece has.
    const uint32_t distance = layout.family().nibble_distance;
    const uint32_t piece = layout.parameters().piece_length;
    float sum = 0;
    for (uint32_t group = 0; group < layout.group_count(); ++group) {
      const uint64_t index = uint64_t{row} * layout.group_count() + group;
      const float scale = widen_bf16(get<uint16_t>(scales, index * sizeof(uint16_t)));
      put(&packed, layout.group_scale(row, group),
          narrow_bf16(scale * layout.family().scale_factor));
      for (uint32_t unit = 0; unit < group_length / 2; unit += piece) {
        int32_t total = 0;
        for (uint32_t i = unit; i < unit + piece; ++i) {
          const uint32_t step = distance == 0 ? piece : distance;
          const uint32_t low = group * group_length + i / step * 2 * step + i % step;
          total += code(row, low) + code(row, low + step);
        }
        const float product = static_cast<float>(total) * scale;
        sum = layout.family().sum_factor < 0 ? sum - product : sum + product;
      }
    }
    return sum;
  }

  std::vector<uint32_t> code_bits_;
};

}  // namespace shira::test
