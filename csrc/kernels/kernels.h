// Kernel contracts: what each operation computes, on every instruction set.
// SPDX-License-Identifier: Apache-2.0
#pragma once

// Kernel files include nothing but this header, base/float_bits.h and their intrinsics: an inline
// function of the standard library compiled with wider instructions could otherwise be the copy the
// linker keeps for everybody.
#include <cstddef>
#include <cstdint>

#include "base/run.h"

namespace shira::kernels {

// Naming: <op>_<element>_<isa>, e.g. scatter_u16_neon. u16 and u32 move bits (any dtype of that
// width); f32, f16 and bf16 compute. scalar.cpp is the definition: every kernel equals the scalar
// one bit for bit, for every count including 0, and touches no byte outside the elements its
// contract names. Only the payload of a NaN is left open: where the scalar kernel gives a NaN, any
// NaN will do. Pointers are aligned to their element, no more; with count 0 they may be null.
// Arrays do not overlap. `index` and runs are strictly increasing.

/// out[j] = weights[index[j]]
template <typename T>
using Gather = void (*)(const T* weights, const uint32_t* index, size_t count, T* out);

/// weights[index[j]] = values[j]; returns how many elements changed their bits.
template <typename T>
using Scatter = size_t (*)(T* weights, const uint32_t* index, size_t count, const T* values);

/// The same over runs: `out` and `values` hold the runs' elements one after the other.
template <typename T>
using GatherRuns = void (*)(const T* weights, const Run* runs, size_t run_count, T* out);
template <typename T>
using ScatterRuns = size_t (*)(T* weights, const Run* runs, size_t run_count, const T* values);

/// out[j] = scale * (widen(target[j]) - widen(base[j])), in float32, two roundings.
template <typename T>
using ContributeTarget = void (*)(const T* target, const T* base, float scale, size_t count,
                                  float* out);

/// out[j] = scale * widen(delta[j]), in float32.
template <typename T>
using ContributeDelta = void (*)(const T* delta, float scale, size_t count, float* out);

/// out[j] = narrow(widen(base[j]) + contribution[j]); returns how many results are not finite.
template <typename T>
using AddRound = size_t (*)(const T* base, const float* contribution, size_t count, T* out);

/// One implementation of every operation. Kernels named f32 take floats, f16 and bf16 the bit
/// patterns.
struct KernelTable {
  const char* isa;  // "scalar", "neon", ...
  Gather<uint16_t> gather_u16;
  Gather<uint32_t> gather_u32;
  Scatter<uint16_t> scatter_u16;
  Scatter<uint32_t> scatter_u32;
  GatherRuns<uint16_t> gather_runs_u16;
  GatherRuns<uint32_t> gather_runs_u32;
  ScatterRuns<uint16_t> scatter_runs_u16;
  ScatterRuns<uint32_t> scatter_runs_u32;
  ContributeTarget<float> contribute_target_f32;
  ContributeTarget<uint16_t> contribute_target_f16;
  ContributeTarget<uint16_t> contribute_target_bf16;
  ContributeDelta<float> contribute_delta_f32;
  ContributeDelta<uint16_t> contribute_delta_f16;
  ContributeDelta<uint16_t> contribute_delta_bf16;
  AddRound<float> add_round_f32;
  AddRound<uint16_t> add_round_f16;
  AddRound<uint16_t> add_round_bf16;
};

}  // namespace shira::kernels
