// Element types of weights and values, and their conversion to float32.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

namespace shira {

/// Numbers are those of docs/FORMAT.md. i4 has -8 to 7, and in memory one byte for each.
enum class Dtype : uint8_t { f32 = 1, f16 = 2, bf16 = 3, i8 = 4, i4 = 5 };

/// The most dimensions that a weight may have; the least is one.
constexpr size_t kMaxRank = 8;

constexpr bool is_dtype(uint8_t number) { return number >= 1 && number <= 5; }
constexpr bool is_float(Dtype dtype) { return dtype <= Dtype::bf16; }
constexpr size_t dtype_bytes(Dtype dtype) {
  return dtype == Dtype::f32 ? 4 : is_float(dtype) ? 2 : 1;
}
const char* dtype_name(Dtype dtype);  // "f32", "f16", "bf16", "int8", "int4"

/// Exact widening; every bit pattern has a float32 value (NaN stays NaN).
float f16_to_f32(uint16_t bits);
float bf16_to_f32(uint16_t bits);

}  // namespace shira
