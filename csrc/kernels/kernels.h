// Kernel contracts: what each operation computes, on every instruction set.
// SPDX-License-Identifier: Apache-2.0
#pragma once

// Kernel files include nothing but the headers of this folder without functions of the library,
// base/float_bits.h and their intrinsics: an inline function of the standard library compiled with
// wider instructions could otherwise be the copy the linker keeps for everybody.
#include <cstddef>
#include <cstdint>

#include "base/run.h"

namespace shira::kernels {

// scalar.cpp is the definition: every kernel equals the scalar one bit for bit, for every count
// including 0, and touches no byte outside the elements its contract names. Only the payload of a
// NaN is left open: where the scalar kernel gives a NaN, any NaN will do. Pointers are aligned to
// their element, no more; with count 0 they may be null. Arrays do not overlap. `index` and runs
// are strictly increasing.

/// out[j] = weights[index[j]]
template <typename T>
using Gather = void (*)(const T* weights, const uint32_t* index, size_t count, T* out);

/// weights[index[j]] = values[j]; never reads the weights.
template <typename T>
using Store = void (*)(T* weights, const uint32_t* index, size_t count, const T* values);

/// out[j] = weights[index[j]], then weights[index[j]] = values[j].
template <typename T>
using Swap = void (*)(T* weights, const uint32_t* index, size_t count, const T* values, T* out);

/// The same over runs: `out` and `values` hold the runs' elements one after the other.
template <typename T>
using GatherRuns = void (*)(const T* weights, const Run* runs, size_t run_count, T* out);
template <typename T>
using StoreRuns = void (*)(T* weights, const Run* runs, size_t run_count, const T* values);
template <typename T>
using SwapRuns = void (*)(T* weights, const Run* runs, size_t run_count, const T* values, T* out);

/// How many of the elements differ in their bits: a[j] != b[j].
template <typename T>
using CountDifferent = size_t (*)(const T* a, const T* b, size_t count);

/// What moves bits, for every dtype of the width of T.
template <typename T>
struct MoveKernels {
  using Element = T;
  Gather<T> gather;
  Store<T> store;
  Swap<T> swap;
  GatherRuns<T> gather_runs;
  StoreRuns<T> store_runs;
  SwapRuns<T> swap_runs;
  CountDifferent<T> count_different;
};

/// out[j] = scale * (widen(target[j]) - widen(base[j])), in float32, two roundings.
template <typename E>
using ContributeTarget = void (*)(const E* target, const E* base, float scale, size_t count,
                                  float* out);

/// out[j] = scale * widen(delta[j]), in float32.
template <typename E>
using ContributeDelta = void (*)(const E* delta, float scale, size_t count, float* out);

/// out[j] = narrow(widen(base[j]) + contribution[j]); returns how many results are not finite: of
/// codes, how many were not before they were narrowed.
template <typename E>
using AddRound = size_t (*)(const E* base, const float* contribution, size_t count, E* out);

/// AddRound of ContributeTarget or ContributeDelta, with the same roundings, in one pass.
template <typename E>
using ScaleTarget = size_t (*)(const E* target, const E* base, float scale, size_t count, E* out);
template <typename E>
using ScaleDelta = size_t (*)(const E* delta, const E* base, float scale, size_t count, E* out);

/// What computes. E is float, uint16_t for the bit patterns of f16 and bf16, or int8_t for codes,
/// which are narrowed to the nearest integer in their range, ties to even.
template <typename E>
struct MathKernels {
  using Element = E;
  ContributeTarget<E> contribute_target;
  ContributeDelta<E> contribute_delta;
  AddRound<E> add_round;
  ScaleTarget<E> scale_target;
  ScaleDelta<E> scale_delta;
};

/// One implementation of every operation.
struct KernelTable {
  const char* isa;  // "scalar", "neon", ...
  MoveKernels<uint8_t> u8;
  MoveKernels<uint16_t> u16;
  MoveKernels<uint32_t> u32;
  MathKernels<float> f32;
  MathKernels<uint16_t> f16;
  MathKernels<uint16_t> bf16;
  MathKernels<int8_t> i8;  // -128 to 127
  MathKernels<int8_t> i4;  // -8 to 7
};

}  // namespace shira::kernels
