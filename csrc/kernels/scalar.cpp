// The definition of every kernel, in plain C++: what the other implementations are tested against.
// SPDX-License-Identifier: Apache-2.0
#include <cfloat>

#include "base/float_bits.h"
#include "kernels/kernels.h"
#include "kernels/moves.h"

namespace shira::kernels {
namespace {

static_assert(FLT_EVAL_METHOD == 0, "float32 operations must round to float32 each");

template <typename T>
size_t count_different(const T* a, const T* b, size_t count) {
  size_t different_count = 0;
  for (size_t j = 0; j < count; ++j) different_count += a[j] != b[j];
  return different_count;
}

template <typename T>
constexpr MoveKernels<T> kMoves = {
    gather_entries<T>, store_entries<T>, swap_entries<T>,    gather_runs<T>,
    store_runs<T>,     swap_runs<T>,     count_different<T>,
};

struct F32 {
  using Element = float;
  static float widen(float value) { return value; }
  static float narrow(float value) { return value; }
  static bool is_finite(float /*sum*/, float value) {
    return (bits_from_float(value) & 0x7F800000U) != 0x7F800000U;
  }
};

struct F16 {
  using Element = uint16_t;
  static float widen(uint16_t bits) { return widen_f16(bits); }
  static uint16_t narrow(float value) { return narrow_f16(value); }
  static bool is_finite(float /*sum*/, uint16_t bits) { return (bits & 0x7C00U) != 0x7C00U; }
};

struct Bf16 {
  using Element = uint16_t;
  static float widen(uint16_t bits) { return widen_bf16(bits); }
  static uint16_t narrow(float value) { return narrow_bf16(value); }
  static bool is_finite(float /*sum*/, uint16_t bits) { return (bits & 0x7F80U) != 0x7F80U; }
};

template <int kLowest, int kHighest>
struct Code {
  using Element = int8_t;
  static float widen(int8_t code) { return static_cast<float>(code); }
  static int8_t narrow(float value) {
    constexpr auto kLow = static_cast<float>(kLowest);
    constexpr auto kHigh = static_cast<float>(kHighest);
    value = value > kLow ? value : kLow;  // a NaN, too
    value = value < kHigh ? value : kHigh;
    constexpr float kUnit = 0x1.8p23F;  // numbers of its size are integers
    return static_cast<int8_t>((value + kUnit) - kUnit);
  }
  static bool is_finite(float sum, int8_t /*code*/) { return F32::is_finite(sum, sum); }
};

template <typename Format>
struct Math {
  using E = typename Format::Element;

  static float target_step(E target, E base, float scale) {
    return scale * (Format::widen(target) - Format::widen(base));
  }
  static float delta_step(E delta, float scale) { return scale * Format::widen(delta); }

  /// Stores base + step, rounded; returns 1 when that is not finite.
  static size_t add(E base, float step, E* out) {
    const float sum = Format::widen(base) + step;
    *out = Format::narrow(sum);
    return Format::is_finite(sum, *out) ? 0 : 1;
  }

  static void contribute_target(const E* target, const E* base, float scale, size_t count,
                                float* out) {
    for (size_t j = 0; j < count; ++j) out[j] = target_step(target[j], base[j], scale);
  }

  static void contribute_delta(const E* delta, float scale, size_t count, float* out) {
    for (size_t j = 0; j < count; ++j) out[j] = delta_step(delta[j], scale);
  }

  static size_t add_round(const E* base, const float* contribution, size_t count, E* out) {
    size_t non_finite_count = 0;
    for (size_t j = 0; j < count; ++j) non_finite_count += add(base[j], contribution[j], out + j);
    return non_finite_count;
  }

  static size_t scale_target(const E* target, const E* base, float scale, size_t count, E* out) {
    size_t non_finite_count = 0;
    for (size_t j = 0; j < count; ++j)
      non_finite_count += add(base[j], target_step(target[j], base[j], scale), out + j);
    return non_finite_count;
  }

  static size_t scale_delta(const E* delta, const E* base, float scale, size_t count, E* out) {
    size_t non_finite_count = 0;
    for (size_t j = 0; j < count; ++j)
      non_finite_count += add(base[j], delta_step(delta[j], scale), out + j);
    return non_finite_count;
  }

  static constexpr MathKernels<E> kKernels = {contribute_target, contribute_delta, add_round,
                                              scale_target, scale_delta};
};

}  // namespace

void scalar_kernels(KernelTable* table) {
  table->u8 = kMoves<uint8_t>;
  table->u16 = kMoves<uint16_t>;
  table->u32 = kMoves<uint32_t>;
  table->f32 = Math<F32>::kKernels;
  table->f16 = Math<F16>::kKernels;
  table->bf16 = Math<Bf16>::kKernels;
  table->i8 = Math<Code<-128, 127>>::kKernels;
  table->i4 = Math<Code<-8, 7>>::kKernels;
}

}  // namespace shira::kernels
