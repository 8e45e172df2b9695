// Conversions between float32 and the 16-bit formats, as integer arithmetic on the bits.
// SPDX-License-Identifier: Apache-2.0
#pragma once

// Integers only: an application that switches on flush-to-zero changes what float instructions do
// with subnormals, and a conversion must not depend on that. Every function is `static`, so kernel
// files may include this header: each gets its own copy, compiled with its own instructions.
#include <cstdint>

namespace shira {

static inline float float_from_bits(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

static inline uint32_t bits_from_float(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return bits;
}

static inline float widen_bf16(uint16_t bits) {
  return float_from_bits(static_cast<uint32_t>(bits) << 16);
}

static inline uint16_t narrow_bf16(float value) {
  const uint32_t bits = bits_from_float(value);
  // A NaN whose payload sits in the low half would round to infinity: keep it a (quiet) NaN.
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return static_cast<uint16_t>((bits >> 16) | 0x0040U);
  return static_cast<uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

static inline float widen_f16(uint16_t bits) {
  const uint32_t sign = (bits & 0x8000U) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1FU;
  uint32_t mantissa = bits & 0x3FFU;
  if (exponent == 0x1F) return float_from_bits(sign | 0x7F800000U | mantissa << 13);
  if (exponent != 0) return float_from_bits(sign | (exponent + 112U) << 23 | mantissa << 13);
  if (mantissa == 0) return float_from_bits(sign);
  // Subnormal: mantissa * 2^-24, normal in float32. Shift the leading one to the implicit bit.
  const uint32_t shift = static_cast<uint32_t>(__builtin_clz(mantissa)) - 21U;
  mantissa = (mantissa << shift) & 0x3FFU;
  return float_from_bits(sign | (113U - shift) << 23 | mantissa << 13);
}

static inline uint16_t narrow_f16(float value) {
  const uint32_t bits = bits_from_float(value);
  const uint32_t sign = (bits >> 16) & 0x8000U;
  const uint32_t magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) {  // NaN, made quiet
    return static_cast<uint16_t>(sign | 0x7E00U | ((magnitude >> 13) & 0x3FFU));
  }
  if (magnitude >= 0x477FF000U) return static_cast<uint16_t>(sign | 0x7C00U);  // from 65520 on
  if (magnitude >= 0x38800000U) {                                              // normal in f16
    const uint32_t rounded = magnitude + 0xFFFU + ((magnitude >> 13) & 1U);
    return static_cast<uint16_t>(sign | ((rounded - 0x38000000U) >> 13));
  }
  if (magnitude < 0x33000000U) return static_cast<uint16_t>(sign);  // below half of 2^-24
  const uint32_t mantissa = (magnitude & 0x7FFFFFU) | 0x800000U;
  const uint32_t shift = 126U - (magnitude >> 23);  // 14 to 24: the result counts units of 2^-24
  const uint32_t kept = mantissa >> shift;
  const uint32_t rest = mantissa & ((1U << shift) - 1U);
  const uint32_t half = 1U << (shift - 1U);
  const uint32_t round_up = (rest > half || (rest == half && (kept & 1U) != 0)) ? 1U : 0U;
  return static_cast<uint16_t>(sign | (kept + round_up));
}

}  // namespace shira
