// The arithmetic kernels in terms of an instruction set's vectors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

// A kernel file describes its vectors by a type V of its own, in an unnamed namespace, which keeps
// all that is made of these templates inside the file:
//
//   kMaxLanes, lanes()               // float32 lanes: at most, and on this CPU
//   load(Format, const Element*)     // lanes() elements, widened
//   store(Format, Float, Element*)   // rounds, stores, returns how many results are not finite
//   add(Float, Float), subtract(Float, Float), scale(float, Float)
#include "kernels/kernels.h"

namespace shira::kernels {

struct F32 {
  using Element = float;
  static constexpr uint32_t kExponent = 0x7F800000U;  // all ones in what is not finite
};
struct F16 {
  using Element = uint16_t;
  static constexpr uint16_t kExponent = 0x7C00U;
};
struct Bf16 {
  using Element = uint16_t;
  static constexpr uint16_t kExponent = 0x7F80U;
};

template <typename Format>
static inline bool is_finite(typename Format::Element element) {
  decltype(Format::kExponent + 0U) bits = 0;
  __builtin_memcpy(&bits, &element, sizeof(element));
  return (bits & Format::kExponent) != Format::kExponent;
}

/// Adds up step(a, b, out) over all vectors of elements. The rest that does not fill a vector is
/// computed in copies, so that no byte behind the arrays is touched.
template <typename V, typename OutFormat, typename E, typename B, typename Step>
static inline size_t for_each_vector(const E* a, const B* b, size_t count,
                                     typename OutFormat::Element* out, Step step) {
  size_t non_finite_count = 0;
  size_t j = 0;
  for (; j + V::lanes() <= count; j += V::lanes()) non_finite_count += step(a + j, b + j, out + j);
  const size_t rest = count - j;
  if (rest == 0) return non_finite_count;
  E last_a[V::kMaxLanes] = {};
  B last_b[V::kMaxLanes] = {};
  typename OutFormat::Element last_out[V::kMaxLanes];
  __builtin_memcpy(last_a, a + j, rest * sizeof(E));
  __builtin_memcpy(last_b, b + j, rest * sizeof(B));
  step(last_a, last_b, last_out);
  __builtin_memcpy(out + j, last_out, rest * sizeof(*out));
  for (size_t k = 0; k < rest; ++k) non_finite_count += is_finite<OutFormat>(last_out[k]) ? 0 : 1;
  return non_finite_count;
}

template <typename V, typename Format>
struct VectorMath {
  using E = typename Format::Element;

  static auto load(const E* elements) { return V::load(Format{}, elements); }

  static auto target_step(const E* target, const E* base, float scale) {
    return V::scale(scale, V::subtract(load(target), load(base)));
  }

  static void contribute_target(const E* target, const E* base, float scale, size_t count,
                                float* out) {
    for_each_vector<V, F32>(target, base, count, out, [=](const E* t, const E* b, float* o) {
      return V::store(F32{}, target_step(t, b, scale), o);
    });
  }

  static void contribute_delta(const E* delta, float scale, size_t count, float* out) {
    for_each_vector<V, F32>(delta, delta, count, out, [=](const E* d, const E*, float* o) {
      return V::store(F32{}, V::scale(scale, load(d)), o);
    });
  }

  static size_t add_round(const E* base, const float* contribution, size_t count, E* out) {
    return for_each_vector<V, Format>(
        base, contribution, count, out, [](const E* b, const float* c, E* o) {
          return V::store(Format{}, V::add(load(b), V::load(F32{}, c)), o);
        });
  }

  static size_t scale_target(const E* target, const E* base, float scale, size_t count, E* out) {
    return for_each_vector<V, Format>(target, base, count, out, [=](const E* t, const E* b, E* o) {
      return V::store(Format{}, V::add(load(b), target_step(t, b, scale)), o);
    });
  }

  static size_t scale_delta(const E* delta, const E* base, float scale, size_t count, E* out) {
    return for_each_vector<V, Format>(delta, base, count, out, [=](const E* d, const E* b, E* o) {
      return V::store(Format{}, V::add(load(b), V::scale(scale, load(d))), o);
    });
  }

  static constexpr MathKernels<E> kKernels = {contribute_target, contribute_delta, add_round,
                                              scale_target, scale_delta};
};

}  // namespace shira::kernels
