// Conversions between float32, float16 and bfloat16: every pattern and every rounding boundary.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/float_bits.h"

namespace {

uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

/// A 16-bit format by its parameters; the reference computes with these in double.
struct Format {
  const char* name;
  int mantissa_bits;
  int bias;
  float (*widen)(uint16_t);
  uint16_t (*narrow)(float);

  uint16_t infinity() const {
    return static_cast<uint16_t>(0x7FFF >> mantissa_bits << mantissa_bits);
  }

  /// The value of a pattern that is not NaN; infinity counts as the next power of two, as rounding
  /// sees it.
  double value(uint16_t bits) const {
    const int exponent = (bits & 0x7FFF) >> mantissa_bits;
    const int mantissa = bits & ((1 << mantissa_bits) - 1);
    const double magnitude = exponent == 0 ? std::ldexp(mantissa, 1 - bias - mantissa_bits)
                                           : std::ldexp((1 << mantissa_bits) + mantissa,
                                                        exponent - bias - mantissa_bits);
    return (bits & 0x8000) != 0 ? -magnitude : magnitude;
  }

  /// Round to nearest, ties to even, by search among all patterns.
  uint16_t nearest(float number) const {
    const auto sign = static_cast<uint16_t>(std::signbit(number) ? 0x8000 : 0);
    const double magnitude = std::fabs(static_cast<double>(number));
    uint16_t low = 0;
    uint16_t high = infinity();
    if (magnitude >= value(high)) return sign | high;
    while (high - low > 1) {
      const auto middle = static_cast<uint16_t>((low + high) / 2);
      (value(middle) <= magnitude ? low : high) = middle;
    }
    const double to_low = magnitude - value(low);
    const double to_high = value(high) - magnitude;
    if (to_low != to_high) return sign | (to_low < to_high ? low : high);
    return sign | (low % 2 == 0 ? low : high);
  }
};

void PrintTo(const Format& format, std::ostream* out) { *out << format.name; }

class DtypeTest : public ::testing::TestWithParam<Format> {};

INSTANTIATE_TEST_SUITE_P(
    Formats, DtypeTest,
    ::testing::Values(Format{"f16", 10, 15, shira::f16_to_f32, shira::narrow_f16},
                      Format{"bf16", 7, 127, shira::bf16_to_f32, shira::narrow_bf16}),
    [](const auto& info) { return std::string(info.param.name); });

TEST_P(DtypeTest, EveryPatternWidensExactlyAndComesBack) {
  const Format& format = GetParam();
  for (uint32_t pattern = 0; pattern <= 0xFFFF; ++pattern) {
    const auto bits = static_cast<uint16_t>(pattern);
    const float widened = format.widen(bits);
    ASSERT_EQ(std::signbit(widened), (bits & 0x8000) != 0) << pattern;
    if ((bits & 0x7FFF) > format.infinity()) {
      ASSERT_TRUE(std::isnan(widened)) << pattern;
      ASSERT_TRUE(std::isnan(format.widen(format.narrow(widened)))) << pattern;
    } else if ((bits & 0x7FFF) == format.infinity()) {
      ASSERT_TRUE(std::isinf(widened)) << pattern;
      ASSERT_EQ(format.narrow(widened), bits);
    } else {
      ASSERT_EQ(static_cast<double>(widened), format.value(bits)) << pattern;
      ASSERT_EQ(format.narrow(widened), bits) << pattern;
    }
  }
}

TEST_P(DtypeTest, TiesGoToEvenAndNeighboursToTheNearest) {
  const Format& format = GetParam();
  for (uint16_t low = 0; low < format.infinity(); ++low) {
    const auto high = static_cast<uint16_t>(low + 1);
    const double exact = (format.value(low) + format.value(high)) / 2;
    const auto middle = static_cast<float>(exact);
    ASSERT_EQ(static_cast<double>(middle), exact) << "the premise: midpoints are float32 numbers";
    const auto even = low % 2 == 0 ? low : high;
    for (const float sign : {1.0F, -1.0F}) {
      const auto sign_bit = static_cast<uint16_t>(sign < 0 ? 0x8000 : 0);
      ASSERT_EQ(format.narrow(sign * middle), sign_bit | even) << low;
      ASSERT_EQ(format.narrow(sign * std::nextafter(middle, 0.0F)), sign_bit | low) << low;
      ASSERT_EQ(format.narrow(sign * std::nextafter(middle, INFINITY)), sign_bit | high) << low;
    }
  }
}

TEST_P(DtypeTest, RandomPatternsAgreeWithTheReference) {
  const Format& format = GetParam();
  std::mt19937 random(20261121);
  for (int i = 0; i < 300000; ++i) {
    const auto bits = static_cast<uint32_t>(random());
    float number;
    std::memcpy(&number, &bits, sizeof(number));
    if (std::isnan(number)) {
      ASSERT_TRUE(std::isnan(format.widen(format.narrow(number)))) << bits;
    } else {
      ASSERT_EQ(format.narrow(number), format.nearest(number)) << bits;
    }
  }
}

TEST_P(DtypeTest, NotANumberStaysOneWhateverItsPayload) {
  const Format& format = GetParam();
  for (uint32_t payload = 1; payload < 0x800000;
       payload = payload * 2 + (payload % 3 == 0 ? 1 : 0)) {
    for (const uint32_t sign : {0U, 0x80000000U}) {
      const uint32_t bits = sign | 0x7F800000U | payload;
      float number;
      std::memcpy(&number, &bits, sizeof(number));
      ASSERT_TRUE(std::isnan(format.widen(format.narrow(number)))) << bits;
    }
  }
}

TEST(Dtype, NamesAndSizes) {
  EXPECT_STREQ(shira::dtype_name(shira::Dtype::f32), "f32");
  EXPECT_STREQ(shira::dtype_name(shira::Dtype::f16), "f16");
  EXPECT_STREQ(shira::dtype_name(shira::Dtype::bf16), "bf16");
  EXPECT_EQ(shira::dtype_bytes(shira::Dtype::f32), 4U);
  EXPECT_EQ(shira::dtype_bytes(shira::Dtype::f16), 2U);
  EXPECT_EQ(shira::dtype_bytes(shira::Dtype::bf16), 2U);
  EXPECT_STREQ(shira::dtype_name(shira::Dtype::i8), "int8");
  EXPECT_STREQ(shira::dtype_name(shira::Dtype::i4), "int4");
  EXPECT_EQ(shira::dtype_bytes(shira::Dtype::i8), 1U);
  EXPECT_EQ(shira::dtype_bytes(shira::Dtype::i4), 1U) << "in memory, not in a file";
  EXPECT_FALSE(shira::is_dtype(0));
  for (uint8_t number = 1; number <= 5; ++number) {
    EXPECT_TRUE(shira::is_dtype(number));
    EXPECT_EQ(shira::is_float(static_cast<shira::Dtype>(number)), number <= 3);
  }
  EXPECT_FALSE(shira::is_dtype(6));
}

TEST(Dtype, NegativeZeroKeepsItsSign) {
  EXPECT_EQ(shira::narrow_f16(-0.0F), 0x8000);
  EXPECT_EQ(shira::narrow_bf16(-0.0F), 0x8000);
  EXPECT_EQ(bits_of(shira::f16_to_f32(0x8000)), 0x80000000U);
  EXPECT_EQ(bits_of(shira::bf16_to_f32(0x8000)), 0x80000000U);
}

}  // namespace
