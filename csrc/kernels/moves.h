// Loops over entries and runs that ask for cache lines ahead of their use.
// SPDX-License-Identifier: Apache-2.0
#pragma once

// Every function is `static`: each kernel file gets its own copy, compiled with its instructions.
#include "kernels/kernels.h"

namespace shira::kernels {

// Entries lie far apart, so that each costs a cache miss; asked for this many entries ahead, as
// many misses are waited for at once as the CPU can have under way.
constexpr size_t kPrefetchDistance = 64;
constexpr size_t kRunPrefetchDistance = 16;

enum class Access { read = 0, write = 1 };

/// Calls body(j) for every j below `count`, `kDistance` calls after asking for address_of(j).
template <Access kAccess, size_t kDistance, typename AddressOf, typename Body>
static inline void for_each_ahead(size_t count, AddressOf address_of, Body body) {
  constexpr int kWrite = kAccess == Access::write ? 1 : 0;
  size_t ahead = 0;
  for (; ahead < kDistance && ahead < count; ++ahead) __builtin_prefetch(address_of(ahead), kWrite);
  size_t j = 0;
  for (; ahead < count; ++ahead, ++j) {
    __builtin_prefetch(address_of(ahead), kWrite);
    body(j);
  }
  for (; j < count; ++j) body(j);
}

template <typename T, size_t kDistance = kPrefetchDistance>
static void gather_entries(const T* weights, const uint32_t* index, size_t count, T* out) {
  for_each_ahead<Access::read, kDistance>(
      count, [=](size_t j) { return weights + index[j]; },
      [=](size_t j) { out[j] = weights[index[j]]; });
}

template <typename T, size_t kDistance = kPrefetchDistance>
static void store_entries(T* weights, const uint32_t* index, size_t count, const T* values) {
  for_each_ahead<Access::write, kDistance>(
      count, [=](size_t j) { return weights + index[j]; },
      [=](size_t j) { weights[index[j]] = values[j]; });
}

template <typename T, size_t kDistance = kPrefetchDistance>
static void swap_entries(T* weights, const uint32_t* index, size_t count, const T* values, T* out) {
  for_each_ahead<Access::write, kDistance>(
      count, [=](size_t j) { return weights + index[j]; },
      [=](size_t j) {
        out[j] = weights[index[j]];
        weights[index[j]] = values[j];
      });
}

/// Calls body(run, offset of its first element among the runs' elements).
template <Access kAccess, size_t kDistance = kRunPrefetchDistance, typename T, typename Body>
static inline void for_each_run(const T* weights, const Run* runs, size_t run_count, Body body) {
  size_t offset = 0;
  for_each_ahead<kAccess, kDistance>(
      run_count, [=](size_t r) { return weights + runs[r].start; },
      [&](size_t r) {
        body(runs[r], offset);
        offset += runs[r].length;
      });
}

}  // namespace shira::kernels
