// One test body for every registered kernel implementation, against a naive oracle of its own.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/dispatch.h"
#include "kernels/kernels.h"

namespace shira::kernels {
namespace {

constexpr size_t kMaxCount = 67;  // more than four of the widest vectors, and a rest
constexpr uint8_t kGuardByte = 0x55;
constexpr size_t kGuardBytes = 64;

/// `count` elements that start `shift` elements behind an aligned address, with guard bytes on both
/// sides.
template <typename T>
class Guarded {
 public:
  Guarded(size_t count, size_t shift)
      : count_(count),
        begin_(kGuardBytes + shift * sizeof(T)),
        bytes_(begin_ + count * sizeof(T) + kGuardBytes) {
    std::memset(storage(), kGuardByte, bytes_);
  }
  Guarded(const std::vector<T>& elements, size_t shift) : Guarded(elements.size(), shift) {
    if (count_ > 0) std::memcpy(data(), elements.data(), count_ * sizeof(T));
  }

  T* data() { return reinterpret_cast<T*>(storage() + begin_); }
  std::vector<T> elements() { return std::vector<T>(data(), data() + count_); }

  bool guards_intact() {
    for (size_t i = 0; i < bytes_; ++i) {
      const bool inside = i >= begin_ && i < begin_ + count_ * sizeof(T);
      if (!inside && storage()[i] != kGuardByte) return false;
    }
    return true;
  }

 private:
  uint8_t* storage() {
    if (memory_.empty()) memory_.resize(bytes_ / 64 + 2);
    return reinterpret_cast<uint8_t*>(memory_.data());
  }

  struct alignas(64) Line {
    uint8_t bytes[64];
  };
  size_t count_;
  size_t begin_;
  size_t bytes_;
  std::vector<Line> memory_;
};

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

float round_to_float(double value) { return static_cast<float>(value); }

/// Equal bit for bit, except that any NaN stands for any other.
bool same(float a, float b) {
  if (std::isnan(a) && std::isnan(b)) return true;
  return std::memcmp(&a, &b, sizeof(a)) == 0;
}

template <typename Oracle>
bool same_element(typename Oracle::Element a, typename Oracle::Element b) {
  if (std::isnan(Oracle::widen(a)) && std::isnan(Oracle::widen(b))) return true;
  return std::memcmp(&a, &b, sizeof(a)) == 0;
}

// --- inputs

std::mt19937& random_source() {
  static std::mt19937 source(20261121);
  return source;
}

template <typename T>
std::vector<T> random_bits(size_t count) {
  std::vector<T> bits(count);
  for (T& element : bits) element = static_cast<T>(random_source()());
  return bits;
}

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
    uint32_t bits = static_cast<uint32_t>(random_source()());
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

std::vector<uint32_t> increasing_index(size_t count) {
  std::vector<uint32_t> index;
  uint32_t position = 0;
  for (size_t i = 0; i < count; ++i) {
    position += static_cast<uint32_t>(random_source()()) % (i % 3 == 0 ? 40 : 2);
    index.push_back(position++);
  }
  return index;
}

std::vector<Run> increasing_runs(size_t count) {
  std::vector<Run> runs;
  uint32_t position = 0;
  for (size_t i = 0; i < count; ++i) {
    const auto bits = static_cast<uint32_t>(random_source()());
    position += i == 0 ? bits % 2 : 1 + bits % 5;
    runs.push_back({position, 1 + bits / 8 % (i % 7 == 0 ? 70U : 5U)});
    position += runs.back().length;
  }
  return runs;
}

std::vector<uint32_t> positions_of(const std::vector<Run>& runs) {
  std::vector<uint32_t> positions;
  for (const Run& run : runs) {
    for (uint32_t j = 0; j < run.length; ++j) positions.push_back(run.start + j);
  }
  return positions;
}

// --- the tests, one body each, for every implementation

class KernelsTest : public ::testing::TestWithParam<size_t> {
 protected:
  void SetUp() override {
    if (!implementations()[GetParam()].supported)
      GTEST_SKIP() << "this CPU cannot run " << table().isa;
  }
  const KernelTable& table() const { return implementations()[GetParam()].table; }
};

INSTANTIATE_TEST_SUITE_P(Implementations, KernelsTest,
                         ::testing::Range(size_t{0}, implementations().size()),
                         [](const auto& info) {
                           return std::string(implementations()[info.param].table.isa);
                         });

/// The move operations over the entries or runs that a test has bound.
template <typename T>
struct BoundMoves {
  std::function<void(const T* weights, T* out)> gather;
  std::function<void(T* weights, const T* values)> store;
  std::function<void(T* weights, const T* values, T* out)> swap;
  std::function<size_t(T* weights, const T* values)> scatter;
};

/// What each operation does at `positions`, and that it does nothing else.
template <typename T>
void check_moves(const std::vector<uint32_t>& positions, size_t shift, const BoundMoves<T>& moves) {
  const size_t element_count = positions.empty() ? 1 : positions.back() + 1;
  const std::vector<T> original = random_bits<T>(element_count);
  std::vector<T> fresh = random_bits<T>(positions.size());
  size_t changed_count = 0;
  std::vector<T> gathered;
  std::vector<T> expected = original;
  for (size_t j = 0; j < positions.size(); ++j) {
    if (j % 3 == 1) fresh[j] = original[positions[j]];  // a store that changes nothing
    gathered.push_back(original[positions[j]]);
    changed_count += original[positions[j]] != fresh[j] ? 1 : 0;
    expected[positions[j]] = fresh[j];
  }
  Guarded<T> values(fresh, shift + 2);
  const auto run = [&](const std::vector<T>& weights_after, const std::vector<T>& out_after,
                       const auto& operation) {
    Guarded<T> weights(original, shift);
    Guarded<T> out(out_after.size(), shift + 1);
    operation(weights.data(), out.data());
    EXPECT_EQ(weights.elements(), weights_after);
    EXPECT_EQ(out.elements(), out_after);
    EXPECT_EQ(values.elements(), fresh);
    EXPECT_TRUE(weights.guards_intact() && out.guards_intact() && values.guards_intact());
  };
  run(original, gathered, [&](T* weights, T* out) { moves.gather(weights, out); });
  run(expected, {}, [&](T* weights, T*) { moves.store(weights, values.data()); });
  run(expected, gathered, [&](T* weights, T* out) { moves.swap(weights, values.data(), out); });
  run(expected, {},
      [&](T* weights, T*) { EXPECT_EQ(moves.scatter(weights, values.data()), changed_count); });
}

template <typename T>
BoundMoves<T> bind(const MoveKernels<T>& moves, const uint32_t* index, size_t count) {
  return {
      [=](const T* weights, T* out) { moves.gather(weights, index, count, out); },
      [=](T* weights, const T* values) { moves.store(weights, index, count, values); },
      [=](T* weights, const T* values, T* out) { moves.swap(weights, index, count, values, out); },
      [=](T* weights, const T* values) { return moves.scatter(weights, index, count, values); }};
}

template <typename T>
BoundMoves<T> bind(const MoveKernels<T>& moves, const Run* runs, size_t count) {
  return {[=](const T* weights, T* out) { moves.gather_runs(weights, runs, count, out); },
          [=](T* weights, const T* values) { moves.store_runs(weights, runs, count, values); },
          [=](T* weights, const T* values, T* out) {
            moves.swap_runs(weights, runs, count, values, out);
          },
          [=](T* weights, const T* values) {
            return moves.scatter_runs(weights, runs, count, values);
          }};
}

template <typename T>
void check_entry_moves(const MoveKernels<T>& moves) {
  for (size_t count = 0; count <= kMaxCount; ++count) {
    for (size_t shift = 0; shift < 4; ++shift) {
      SCOPED_TRACE("count " + std::to_string(count) + ", shift " + std::to_string(shift));
      const std::vector<uint32_t> index = increasing_index(count);
      Guarded<uint32_t> guarded(index, shift);
      check_moves<T>(index, shift, bind(moves, guarded.data(), count));
      EXPECT_EQ(guarded.elements(), index);
    }
  }
}

template <typename T>
void check_run_moves(const MoveKernels<T>& moves) {
  for (size_t count = 0; count <= kMaxCount; ++count) {
    for (size_t shift = 0; shift < 4; ++shift) {
      SCOPED_TRACE("runs " + std::to_string(count) + ", shift " + std::to_string(shift));
      const std::vector<Run> runs = increasing_runs(count);
      check_moves<T>(positions_of(runs), shift, bind(moves, runs.data(), count));
    }
  }
  for (uint32_t length = 1; length <= kMaxCount; ++length) {
    SCOPED_TRACE("length " + std::to_string(length));
    const std::vector<Run> runs = {{3, length}, {length + 5, length}};
    check_moves<T>(positions_of(runs), length % 5, bind(moves, runs.data(), runs.size()));
  }
}

template <typename T>
void check_count_different(const MoveKernels<T>& moves) {
  for (size_t count = 0; count <= kMaxCount; ++count) {
    const std::vector<T> a = random_bits<T>(count);
    std::vector<T> b = random_bits<T>(count);
    size_t different_count = 0;
    for (size_t j = 0; j < count; ++j) {
      if (j % 3 == 1) b[j] = a[j];
      different_count += a[j] != b[j] ? 1 : 0;
    }
    Guarded<T> left(a, count % 4);
    Guarded<T> right(b, count % 5);
    EXPECT_EQ(moves.count_different(left.data(), right.data(), count), different_count) << count;
  }
}

TEST_P(KernelsTest, EntryMoves) {
  check_entry_moves(table().u8);
  check_entry_moves(table().u16);
  check_entry_moves(table().u32);
}

TEST_P(KernelsTest, RunMoves) {
  check_run_moves(table().u8);
  check_run_moves(table().u16);
  check_run_moves(table().u32);
}

TEST_P(KernelsTest, CountDifferent) {
  check_count_different(table().u8);
  check_count_different(table().u16);
  check_count_different(table().u32);
}

/// Two rounds of 32-bit positions: an implementation that treats an index as signed reads before
/// the weights. The address space is reserved, but only the touched page becomes real.
TEST_P(KernelsTest, PositionsAreUnsigned) {
  if (sizeof(void*) < 8) GTEST_SKIP() << "needs 64-bit addresses";
  const size_t element_count = size_t{0x80000000} + 64;
  auto* weights = static_cast<uint16_t*>(std::calloc(element_count, sizeof(uint16_t)));
  if (weights == nullptr) GTEST_SKIP() << "4 GiB of address space are not to be had";
  std::vector<uint32_t> index;
  std::vector<uint16_t> values;
  for (uint32_t j = 0; j < 40; ++j) {
    index.push_back(0x80000000U + j);
    values.push_back(static_cast<uint16_t>(j + 1));
  }
  table().u16.store(weights, index.data(), index.size(), values.data());
  std::vector<uint16_t> out(values.size());
  table().u16.gather(weights, index.data(), index.size(), out.data());
  EXPECT_EQ(out, values);
  EXPECT_EQ(weights[0x80000000U], 1);
  std::free(weights);
}

constexpr float kScales[] = {1.0F, -1.0F, 0.5F, 0.3F, 1e-20F, 3e38F, -0.0F};

/// scale_target and scale_delta are contribute_target and contribute_delta, then add_round.
template <typename Oracle, typename Element>
void check_scaled(const MathKernels<Element>& math, Guarded<Element>& values,
                  Guarded<Element>& base, float scale, size_t count) {
  std::vector<float> contribution(count);
  std::vector<Element> expected(count);
  const auto check = [&](auto scale_all) {
    const size_t non_finite_count =
        math.add_round(base.data(), contribution.data(), count, expected.data());
    Guarded<Element> out(count, count % 3);
    EXPECT_EQ(scale_all(values.data(), base.data(), scale, count, out.data()), non_finite_count);
    for (size_t j = 0; j < count; ++j)
      ASSERT_TRUE(same_element<Oracle>(out.data()[j], expected[j])) << j;
    EXPECT_TRUE(out.guards_intact());
  };
  math.contribute_target(values.data(), base.data(), scale, count, contribution.data());
  check(math.scale_target);
  math.contribute_delta(values.data(), scale, count, contribution.data());
  check(math.scale_delta);
}

template <typename Oracle>
void check_arithmetic(const MathKernels<typename Oracle::Element>& math) {
  using Element = typename Oracle::Element;
  for (size_t count = 0; count <= kMaxCount; ++count) {
    const size_t shift = count % 4;
    const float scale = kScales[count % std::size(kScales)];
    SCOPED_TRACE("count " + std::to_string(count) + ", scale " + std::to_string(scale));
    Guarded<Element> base(hard_elements<Element>(count), shift);
    Guarded<Element> target(hard_elements<Element>(count), shift + 1);
    Guarded<float> addend(hard_elements<float>(count), shift + 2);
    Guarded<float> out(count, shift + 3);

    math.contribute_target(target.data(), base.data(), scale, count, out.data());
    for (size_t j = 0; j < count; ++j) {
      const float difference =
          round_to_float(Oracle::widen(target.data()[j]) - Oracle::widen(base.data()[j]));
      const float expected =
          round_to_float(static_cast<double>(scale) * static_cast<double>(difference));
      ASSERT_TRUE(same(out.data()[j], expected))
          << j << ": " << out.data()[j] << " not " << expected;
    }
    math.contribute_delta(target.data(), scale, count, out.data());
    for (size_t j = 0; j < count; ++j) {
      const float expected =
          round_to_float(static_cast<double>(scale) * Oracle::widen(target.data()[j]));
      ASSERT_TRUE(same(out.data()[j], expected))
          << j << ": " << out.data()[j] << " not " << expected;
    }
    Guarded<Element> sums(count, shift + 1);
    size_t non_finite_count = 0;
    const size_t returned = math.add_round(base.data(), addend.data(), count, sums.data());
    for (size_t j = 0; j < count; ++j) {
      const float sum =
          round_to_float(Oracle::widen(base.data()[j]) + static_cast<double>(addend.data()[j]));
      const Element expected = Oracle::narrow(sum);
      ASSERT_TRUE(same_element<Oracle>(sums.data()[j], expected))
          << j << ": " << sums.data()[j] << " not " << expected;
      non_finite_count += std::isfinite(Oracle::widen(expected)) ? 0 : 1;
    }
    EXPECT_EQ(returned, non_finite_count);
    check_scaled<Oracle>(math, target, base, scale, count);
    EXPECT_TRUE(base.guards_intact() && target.guards_intact() && addend.guards_intact());
    EXPECT_TRUE(out.guards_intact() && sums.guards_intact());
  }
}

TEST_P(KernelsTest, Arithmetic) {
  for (int round = 0; round < 40; ++round) {
    check_arithmetic<F32Oracle>(table().f32);
    check_arithmetic<F16Oracle>(table().f16);
    check_arithmetic<Bf16Oracle>(table().bf16);
    if (HasFatalFailure()) return;
  }
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

TEST_P(KernelsTest, CountZeroTouchesNothing) {
  const KernelTable& all = table();
  all.u16.store(nullptr, nullptr, 0, nullptr);
  all.u8.swap(nullptr, nullptr, 0, nullptr, nullptr);
  all.u32.gather(nullptr, nullptr, 0, nullptr);
  all.u32.store_runs(nullptr, nullptr, 0, nullptr);
  all.u16.swap_runs(nullptr, nullptr, 0, nullptr, nullptr);
  EXPECT_EQ(all.u8.count_different(nullptr, nullptr, 0), 0U);
  EXPECT_EQ(all.bf16.add_round(nullptr, nullptr, 0, nullptr), 0U);
  EXPECT_EQ(all.f32.scale_target(nullptr, nullptr, 1.0F, 0, nullptr), 0U);
  all.f16.contribute_delta(nullptr, 1.0F, 0, nullptr);
}

// --- dispatch

TEST(Dispatch, ScalarIsTheLastResort) {
  ASSERT_FALSE(implementations().empty());
  EXPECT_STREQ(implementations().back().table.isa, "scalar");
  EXPECT_TRUE(implementations().back().supported);
}

TEST(Dispatch, ChoosesTheFirstSupportedOne) {
  const KernelTable* best = nullptr;
  for (const Implementation& implementation : implementations()) {
    if (implementation.supported && best == nullptr) best = &implementation.table;
  }
  EXPECT_EQ(select_kernels(nullptr).value(), best);
  EXPECT_EQ(select_kernels("").value(), best);
}

TEST(Dispatch, HonoursEveryNameOrRefusesIt) {
  for (const Implementation& implementation : implementations()) {
    const auto selected = select_kernels(implementation.table.isa);
    if (implementation.supported) {
      EXPECT_EQ(selected.value(), &implementation.table);
    } else {
      EXPECT_EQ(selected.error().status, Status::NOT_SUPPORTED);
    }
  }
  const auto unknown = select_kernels("abacus");
  EXPECT_EQ(unknown.error().status, Status::INVALID_ARGUMENT);
  EXPECT_NE(unknown.error().message.find("abacus"), std::string::npos);
  EXPECT_NE(unknown.error().message.find("scalar"), std::string::npos);
}

/// Each runs in a forked process of its own, because the choice is made once; nothing else here
/// makes it.
TEST(DispatchDeathTest, ReadsTheEnvironmentOnce) {
  EXPECT_EXIT(
      {
        setenv("SHIRA_FORCE_KERNEL", "scalar", 1);
        const auto first = active_kernels();
        setenv("SHIRA_FORCE_KERNEL", "abacus", 1);
        const bool good =
            first.ok() && std::string(first.value()->isa) == "scalar" && active_kernels().ok();
        std::_Exit(good ? 0 : 1);
      },
      ::testing::ExitedWithCode(0), "");
  EXPECT_EXIT(
      {
        setenv("SHIRA_FORCE_KERNEL", "abacus", 1);
        const bool refused = !active_kernels().ok() && !active_kernels().ok();
        std::_Exit(refused ? 0 : 1);
      },
      ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace shira::kernels
