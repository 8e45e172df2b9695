// The definition of every kernel, in plain C++: what the other implementations are tested against.
// SPDX-License-Identifier: Apache-2.0
#include <cfloat>

#include "base/float_bits.h"
#include "kernels/kernels.h"

namespace shira::kernels {
namespace {

static_assert(FLT_EVAL_METHOD == 0, "float32 operations must round to float32 each");

// Runs lie far apart, so that each begins with a cache miss; asked for this many runs ahead,
// several misses are waited for at once.
constexpr size_t kPrefetchDistance = 16;

template <typename T>
void gather_scalar(const T* weights, const uint32_t* index, size_t count, T* out) {
  for (size_t j = 0; j < count; ++j) out[j] = weights[index[j]];
}

template <typename T>
size_t scatter_scalar(T* weights, const uint32_t* index, size_t count, const T* values) {
  size_t changed_count = 0;
  for (size_t j = 0; j < count; ++j) {
    T& weight = weights[index[j]];
    changed_count += weight != values[j];
    weight = values[j];
  }
  return changed_count;
}

template <typename T>
void gather_runs_scalar(const T* weights, const Run* runs, size_t run_count, T* out) {
  for (size_t r = 0; r < run_count; ++r) {
    if (r + kPrefetchDistance < run_count)
      __builtin_prefetch(weights + runs[r + kPrefetchDistance].start);
    const T* begin = weights + runs[r].start;
    for (uint32_t j = 0; j < runs[r].length; ++j) out[j] = begin[j];
    out += runs[r].length;
  }
}

template <typename T>
size_t scatter_runs_scalar(T* weights, const Run* runs, size_t run_count, const T* values) {
  size_t changed_count = 0;
  for (size_t r = 0; r < run_count; ++r) {
    if (r + kPrefetchDistance < run_count)
      __builtin_prefetch(weights + runs[r + kPrefetchDistance].start, 1);
    T* begin = weights + runs[r].start;
    for (uint32_t j = 0; j < runs[r].length; ++j) {
      changed_count += begin[j] != values[j];
      begin[j] = values[j];
    }
    values += runs[r].length;
  }
  return changed_count;
}

struct F32 {
  using Element = float;
  static float widen(float value) { return value; }
  static float narrow(float value) { return value; }
  static bool is_finite(float value) {
    return (bits_from_float(value) & 0x7F800000U) != 0x7F800000U;
  }
};

struct F16 {
  using Element = uint16_t;
  static float widen(uint16_t bits) { return widen_f16(bits); }
  static uint16_t narrow(float value) { return narrow_f16(value); }
  static bool is_finite(uint16_t bits) { return (bits & 0x7C00U) != 0x7C00U; }
};

struct Bf16 {
  using Element = uint16_t;
  static float widen(uint16_t bits) { return widen_bf16(bits); }
  static uint16_t narrow(float value) { return narrow_bf16(value); }
  static bool is_finite(uint16_t bits) { return (bits & 0x7F80U) != 0x7F80U; }
};

template <typename Format>
void contribute_target_scalar(const typename Format::Element* target,
                              const typename Format::Element* base, float scale, size_t count,
                              float* out) {
  for (size_t j = 0; j < count; ++j) {
    out[j] = scale * (Format::widen(target[j]) - Format::widen(base[j]));
  }
}

template <typename Format>
void contribute_delta_scalar(const typename Format::Element* delta, float scale, size_t count,
                             float* out) {
  for (size_t j = 0; j < count; ++j) out[j] = scale * Format::widen(delta[j]);
}

template <typename Format>
size_t add_round_scalar(const typename Format::Element* base, const float* contribution,
                        size_t count, typename Format::Element* out) {
  size_t non_finite_count = 0;
  for (size_t j = 0; j < count; ++j) {
    out[j] = Format::narrow(Format::widen(base[j]) + contribution[j]);
    non_finite_count += !Format::is_finite(out[j]);
  }
  return non_finite_count;
}

}  // namespace

const KernelTable& scalar_kernels() {
  static constexpr KernelTable kTable = {
      "scalar",
      gather_scalar<uint16_t>,
      gather_scalar<uint32_t>,
      scatter_scalar<uint16_t>,
      scatter_scalar<uint32_t>,
      gather_runs_scalar<uint16_t>,
      gather_runs_scalar<uint32_t>,
      scatter_runs_scalar<uint16_t>,
      scatter_runs_scalar<uint32_t>,
      contribute_target_scalar<F32>,
      contribute_target_scalar<F16>,
      contribute_target_scalar<Bf16>,
      contribute_delta_scalar<F32>,
      contribute_delta_scalar<F16>,
      contribute_delta_scalar<Bf16>,
      add_round_scalar<F32>,
      add_round_scalar<F16>,
      add_round_scalar<Bf16>,
  };
  return kTable;
}

}  // namespace shira::kernels
