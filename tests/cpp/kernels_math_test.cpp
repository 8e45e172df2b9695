// The kernels that compute, each implementation against the scalar one and against an oracle.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/kernels.h"
#include "kernels_support.h"

namespace shira::kernels {
namespace {

constexpr size_t kMaxCount = 200;

INSTANTIATE_TEST_SUITE_P(Implementations, KernelsTest, every_implementation(), isa_name);

// --- the oracle: formats as sorted lists of values, arithmetic in double, rounded once by the
// compiler. Sums, differences and products of two float32 numbers round to float32 the same way by
// way of double (53 >= 2 * 24 + 2 bits).

struct F32Oracle {
  using Element = float;
  static double widen(float value) { return static_cast<double>(value); }
  static float narrow(float value) { return value; }
};

template <int kMantissaBits, int kBias>
struct HalfOracle {
  using Element = uint16_t;
  static constexpr int kInfinity = 0x7FFF >> kMantissaBits << kMantissaBits;

  static double magnitude(int bits) {
    const int exponent = bits >> kMantissaBits;
    const int mantissa = bits & ((1 << kMantissaBits) - 1);
    return exponent == 0
               ? std::ldexp(mantissa, 1 - kBias - kMantissaBits)
               : std::ldexp((1 << kMantissaBits) + mantissa, exponent - kBias - kMantissaBits);
  }
  static double widen(uint16_t bits) {
    double value = magnitude(bits & 0x7FFF);
    if ((bits & 0x7FFF) == kInfinity) value = INFINITY;
    if ((bits & 0x7FFF) > kInfinity) value = NAN;
    return (bits & 0x8000) != 0 ? -value : value;
  }
  static uint16_t narrow(float number) {
    if (std::isnan(number)) return 0x7FFF;
    const double wanted = std::fabs(static_cast<double>(number));
    int low = 0;
    int high = kInfinity;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (magnitude(middle) <= wanted ? low : high) = middle;
    }
    const double to_low = wanted - magnitude(low);
    const double to_high = magnitude(high) - wanted;
    const bool up = to_high < to_low || (to_high == to_low && low % 2 == 1);
    return static_cast<uint16_t>((std::signbit(number) ? 0x8000 : 0) | (up ? high : low));
  }
};

using F16Oracle = HalfOracle<10, 15>;
using Bf16Oracle = HalfOracle<7, 127>;

template <int kLowest, int kHighest>
struct CodeOracle {
  using Element = int8_t;
  static double widen(int8_t code) { return code; }
  static int8_t narrow(float number) {
    if (!(number > kLowest)) return kLowest;  // also of what is no number
    if (number > kHighest) return kHighest;
    int nearest = kLowest;
    for (int code = kLowest; code <= kHighest; ++code) {
      const float to_code = std::fabs(number - static_cast<float>(code));
      const float to_nearest = std::fabs(number - static_cast<float>(nearest));
      if (to_code < to_nearest || (to_code == to_nearest && code % 2 == 0)) nearest = code;
    }
    return static_cast<int8_t>(nearest);
  }
};

using I8Oracle = CodeOracle<-128, 127>;
using I4Oracle = CodeOracle<-8, 7>;

float round_to_float(double value) { return static_cast<float>(value); }

/// Equal bit for bit, except that any NaN stands for any other.
template <typename Oracle>
bool same_element(typename Oracle::Element a, typename Oracle::Element b) {
  if (std::isnan(Oracle::widen(a)) && std::isnan(Oracle::widen(b))) return true;
  return std::memcmp(&a, &b, sizeof(a)) == 0;
}

// --- inputs

/// Numbers that hurt: zeros of both signs, subnormals, ties, the largest ones, non-finite ones, and
/// plain random patterns.
template <typename T>
std::vector<T> hard_elements(size_t count) {
  std::vector<T> elements;
  const std::vector<uint32_t> hard_f32 = {
      0x00000000, 0x80000000, 0x00000001, 0x807FFFFF, 0x33000000, 0x33000001,
      0x38800000, 0x477FF000, 0x477FEFFF, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000,
      0xFFC00001, 0x3F800000, 0xBF801000, 0x3F803000, 0x3F808000, 0x3F818000};
  const std::vector<uint32_t> hard_u16 = {0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF,
                                          0xFBFF, 0x7C00, 0x7E00, 0x3C00, 0xBC01, 0x007F,
                                          0x0080, 0x7F7F, 0x7F80, 0xFFC0};
  for (size_t i = 0; i < count; ++i) {
    uint32_t bits = random_u32();
    const uint32_t choice = bits % 4;
    if (std::is_same_v<T, float>) {
      if (choice == 0) bits = hard_f32[bits / 4 % hard_f32.size()];
      if (choice == 1)
        bits = 0x38000000U + bits % 0x10000000U;  // of ordinary size: sums that round
    } else if (choice == 0) {
      bits = hard_u16[bits / 4 % hard_u16.size()];
    }
    T element;
    std::memcpy(&element, &bits, sizeof(element));
    elements.push_back(element);
  }
  return elements;
}

// --- the tests

const KernelTable& scalar() { return implementations().back().table; }

constexpr float kScales[] = {
    1.0F,  -1.0F, 0.5F,   0.3F,      1e-20F,
    3e38F, -0.0F, 1e-40F, HUGE_VALF, std::numeric_limits<float>::quiet_NaN()};

/// Arrays of one length, at different places relative to a vector.
template <typename Oracle>
struct Operands {
  using Element = typename Oracle::Element;
  explicit Operands(size_t length)
      : count(length),
        base(hard_elements<Element>(count), count % 32),
        values(hard_elements<Element>(count), count / 2 % 32),
        addend(hard_elements<float>(count), count / 3 % 32) {}

  bool guards_intact() {
    return base.guards_intact() && values.guards_intact() && addend.guards_intact();
  }

  size_t count;
  Guarded<Element> base;
  Guarded<Element> values;
  Guarded<float> addend;
};

/// Runs `operation`, which returns how many of `out` are not finite, and compares every element
/// with expected(j), rounded, and with what the scalar kernel gives.
template <typename Oracle, typename Math, typename Operation, typename Expected>
void check_elements(const Math& math, const Math& scalar_math, size_t count, size_t shift,
                    Operation operation, Expected expected) {
  using Element = typename Oracle::Element;
  Guarded<Element> out(count, shift);
  Guarded<Element> scalar_out(count, shift);
  const size_t non_finite_count = operation(math, out.data());
  EXPECT_EQ(operation(scalar_math, scalar_out.data()), non_finite_count);
  size_t expected_count = 0;
  for (size_t j = 0; j < count; ++j) {
    const float exact = expected(j);
    const Element wanted = Oracle::narrow(exact);
    ASSERT_TRUE(same_element<Oracle>(out.data()[j], wanted))
        << j << ": " << out.data()[j] << " not " << wanted;
    ASSERT_TRUE(same_element<Oracle>(out.data()[j], scalar_out.data()[j])) << j;
    expected_count += std::isfinite(exact) && std::isfinite(Oracle::widen(wanted)) ? 0 : 1;
  }
  EXPECT_EQ(non_finite_count, expected_count);
  EXPECT_TRUE(out.guards_intact());
}

template <typename Oracle, typename Math>
void check_arithmetic(const Math& math, const Math& scalar_math, size_t count, float scale) {
  SCOPED_TRACE("count " + std::to_string(count) + ", scale " + std::to_string(scale));
  Operands<Oracle> in(count);
  const size_t shift = count % 29;
  const auto widen = [](Guarded<typename Oracle::Element>& elements, size_t j) {
    return Oracle::widen(elements.data()[j]);
  };
  const auto scaled = [&](double value) {
    return round_to_float(static_cast<double>(scale) * value);
  };
  const auto target_step = [&](size_t j) {
    return scaled(static_cast<double>(round_to_float(widen(in.values, j) - widen(in.base, j))));
  };
  const auto delta_step = [&](size_t j) { return scaled(widen(in.values, j)); };
  const auto sum = [&](size_t j, float step) {
    return round_to_float(widen(in.base, j) + static_cast<double>(step));
  };
  const auto count_non_finite = [&](const float* out) {
    size_t found = 0;
    for (size_t j = 0; j < count; ++j) found += std::isfinite(out[j]) ? 0 : 1;
    return found;
  };

  const auto* values = in.values.data();
  const auto* base = in.base.data();
  const auto check_steps = [&](const auto& operation, const auto& expected) {
    check_elements<F32Oracle>(math, scalar_math, count, shift, operation, expected);
  };
  const auto check_sums = [&](const auto& operation, const auto& expected) {
    check_elements<Oracle>(math, scalar_math, count, shift, operation, expected);
  };
  check_steps(
      [&](const Math& m, float* out) {
        m.contribute_target(values, base, scale, count, out);
        return count_non_finite(out);
      },
      target_step);
  check_steps(
      [&](const Math& m, float* out) {
        m.contribute_delta(values, scale, count, out);
        return count_non_finite(out);
      },
      delta_step);
  check_sums(
      [&](const Math& m, auto* out) { return m.add_round(base, in.addend.data(), count, out); },
      [&](size_t j) { return sum(j, in.addend.data()[j]); });
  check_sums(
      [&](const Math& m, auto* out) { return m.scale_target(values, base, scale, count, out); },
      [&](size_t j) { return sum(j, target_step(j)); });
  check_sums(
      [&](const Math& m, auto* out) { return m.scale_delta(values, base, scale, count, out); },
      [&](size_t j) { return sum(j, delta_step(j)); });
  EXPECT_TRUE(in.guards_intact());
}

TEST_P(KernelsTest, Arithmetic) {
  for (size_t count = 0; count <= kMaxCount; ++count) {
    for (const float scale : kScales) {
      check_arithmetic<F32Oracle>(table().f32, scalar().f32, count, scale);
      check_arithmetic<F16Oracle>(table().f16, scalar().f16, count, scale);
      check_arithmetic<Bf16Oracle>(table().bf16, scalar().bf16, count, scale);
      check_arithmetic<I8Oracle>(table().i8, scalar().i8, count, scale);
      check_arithmetic<I4Oracle>(table().i4, scalar().i4, count, scale);
      if (HasFailure()) return;
    }
  }
}

/// Every 16-bit pattern widened; and narrowed: every number of the format, what lies halfway to the
/// next one, and the float32 numbers beside that.
template <typename Oracle>
void check_every_pattern(const MathKernels<uint16_t>& math) {
  std::vector<uint16_t> patterns(0x10000);
  for (size_t i = 0; i < patterns.size(); ++i) patterns[i] = static_cast<uint16_t>(i);
  std::vector<float> widened(patterns.size());
  math.contribute_delta(patterns.data(), 1.0F, patterns.size(), widened.data());
  for (size_t i = 0; i < patterns.size(); ++i) {
    const float expected = round_to_float(Oracle::widen(patterns[i]));
    ASSERT_TRUE(same_element<F32Oracle>(widened[i], expected)) << i << ": " << widened[i];
  }

  std::vector<float> numbers;
  for (int bits = 0; bits <= Oracle::kInfinity; ++bits) {
    const float low = round_to_float(Oracle::magnitude(bits));
    const float middle =
        round_to_float((Oracle::magnitude(bits) + Oracle::magnitude(bits + 1)) / 2);
    for (const float magnitude :
         {low, middle, std::nextafter(middle, 0.0F), std::nextafter(middle, HUGE_VALF)}) {
      numbers.push_back(magnitude);
      numbers.push_back(-magnitude);
    }
  }
  const std::vector<uint16_t> minus_zero(numbers.size(), 0x8000);  // -0 + x is x, -0 included
  std::vector<uint16_t> narrow(numbers.size());
  math.add_round(minus_zero.data(), numbers.data(), numbers.size(), narrow.data());
  for (size_t i = 0; i < numbers.size(); ++i)
    ASSERT_EQ(narrow[i], Oracle::narrow(numbers[i])) << numbers[i];
}

TEST_P(KernelsTest, EveryPattern) {
  check_every_pattern<F16Oracle>(table().f16);
  check_every_pattern<Bf16Oracle>(table().bf16);
}

/// A million float32 patterns of any kind, narrowed as the scalar kernel does it.
TEST_P(KernelsTest, RandomPatterns) {
  const size_t count = 1 << 20;
  const std::vector<uint32_t> bits = random_bits<uint32_t>(count);
  std::vector<float> numbers(count);
  std::memcpy(numbers.data(), bits.data(), count * sizeof(float));
  const std::vector<uint16_t> minus_zero(count, 0x8000);
  std::vector<uint16_t> narrow(count);
  std::vector<uint16_t> scalar_narrow(count);
  table().f16.add_round(minus_zero.data(), numbers.data(), count, narrow.data());
  scalar().f16.add_round(minus_zero.data(), numbers.data(), count, scalar_narrow.data());
  for (size_t i = 0; i < count; ++i)
    ASSERT_TRUE(same_element<F16Oracle>(narrow[i], scalar_narrow[i])) << numbers[i];
  table().bf16.add_round(minus_zero.data(), numbers.data(), count, narrow.data());
  scalar().bf16.add_round(minus_zero.data(), numbers.data(), count, scalar_narrow.data());
  for (size_t i = 0; i < count; ++i)
    ASSERT_TRUE(same_element<Bf16Oracle>(narrow[i], scalar_narrow[i])) << numbers[i];
}

/// scale * (target - base) with a subnormal, an exact tie and a -0.0, worked out by hand.
TEST_P(KernelsTest, KnownAnswers) {
  const uint16_t base[] = {0x3C00, 0x0001, 0x8000, 0x7BFF,
                           0x3C01};  // 1, 2^-24, -0, 65504, 1 + 2^-10
  const float addend[] = {0x1p-11F, 0x1p-25F, -0.0F, 16.0F, 0x1p-11F};
  const uint16_t sums[] = {0x3C00, 0x0002, 0x8000, 0x7C00,
                           0x3C02};  // ties to even; the fourth overflows
  uint16_t out[5];
  EXPECT_EQ(table().f16.add_round(base, addend, 5, out), 1U);
  for (int j = 0; j < 5; ++j) EXPECT_EQ(out[j], sums[j]) << j;

  // Fused, scale * target - scale * base would keep bits that two roundings lose.
  const float target = 1.0F + 0x1p-23F;
  const float zero = 0.0F;
  float contribution = 0;
  table().f32.contribute_target(&target, &zero, 1.0F + 0x1p-23F, 1, &contribution);
  EXPECT_EQ(contribution, 1.0F + 0x1p-22F);
}

TEST_P(KernelsTest, CodesRoundTiesToEvenAndStayInRange) {
  const int8_t base[] = {0, 1, 2, -1, -2, 126, 127, -128, 6, 7, -7, -8, 5, 5};
  const float addend[] = {0.5F, 0.5F, 0.5F, 0.5F, -0.5F, 0.5F,      0.5F,
                          -.5F, 0.5F, 0.5F, -.5F, -.5F,  HUGE_VALF, -1e30F};
  const int8_t of_i8[] = {0, 2, 2, 0, -2, 126, 127, -128, 6, 8, -8, -8, 127, -128};
  const int8_t of_i4[] = {0, 2, 2, 0, -2, 7, 7, -8, 6, 7, -8, -8, 7, -8};
  int8_t out[14];
  EXPECT_EQ(table().i8.add_round(base, addend, 14, out), 1U);
  for (int j = 0; j < 14; ++j) EXPECT_EQ(out[j], of_i8[j]) << j;
  EXPECT_EQ(table().i4.add_round(base, addend, 14, out), 1U);
  for (int j = 0; j < 14; ++j) EXPECT_EQ(out[j], of_i4[j]) << j;
}

TEST_P(KernelsTest, ArithmeticOnNothing) {
  EXPECT_EQ(table().bf16.add_round(nullptr, nullptr, 0, nullptr), 0U);
  EXPECT_EQ(table().f32.scale_target(nullptr, nullptr, 1.0F, 0, nullptr), 0U);
  table().f16.contribute_delta(nullptr, 1.0F, 0, nullptr);
}

}  // namespace
}  // namespace shira::kernels
