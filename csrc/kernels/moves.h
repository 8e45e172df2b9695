// Loops over entries and runs that ask for cache lines ahead of their use.
// SPDX-License-Identifier: Apache-2.0
#pragma once

// Every function is `static`: each kernel file gets its own copy, compiled with its instructions.
// The distances are arguments for the benchmark that chose them.
#include "kernels/kernels.h"

namespace shira::kernels {

// Entries lie far apart, so that each costs a cache miss; asked for this many entries ahead, as
// many misses are waited for at once as the CPU can have under way. Measured with cold caches: half
// of it leaves swaps waiting, twice as much gains nothing, for every width of elements. Runs need
// less: once one has begun, the CPU itself asks for its further lines.
constexpr size_t kPrefetchDistance = 96;
constexpr size_t kRunPrefetchDistance = 16;

/// Calls body(j) for every j below `count`, `kDistance` calls after ask(j).
template <size_t kDistance, typename Ask, typename Body>
static inline void for_each_ahead(size_t count, Ask ask, Body body) {
  size_t ahead = 0;
  for (; ahead < kDistance && ahead < count; ++ahead) ask(ahead);
  size_t j = 0;
  for (; ahead < count; ++ahead, ++j) {
    ask(ahead);
    body(j);
  }
  for (; j < count; ++j) body(j);
}

static inline void ask_to_read(const void* address) { __builtin_prefetch(address, 0); }
static inline void ask_to_write(const void* address) { __builtin_prefetch(address, 1); }

template <typename T, size_t kDistance = kPrefetchDistance>
static void gather_entries(const T* weights, const uint32_t* index, size_t count, T* out) {
  for_each_ahead<kDistance>(
      count, [=](size_t j) { ask_to_read(weights + index[j]); },
      [=](size_t j) { out[j] = weights[index[j]]; });
}

template <typename T, size_t kDistance = kPrefetchDistance>
static void store_entries(T* weights, const uint32_t* index, size_t count, const T* values) {
  for_each_ahead<kDistance>(
      count, [=](size_t j) { ask_to_write(weights + index[j]); },
      [=](size_t j) { weights[index[j]] = values[j]; });
}

// Loads that follow a store wait for it to be sure that it is not to the same place: so a few are
// loaded before the first of them is stored. Of 4, 8 and 16 at a time 8 was the fastest.
constexpr size_t kSwapBlock = 8;

template <typename T, size_t kDistance = kPrefetchDistance>
static void swap_entries(T* weights, const uint32_t* index, size_t count, const T* values, T* out) {
  static_assert(kDistance % kSwapBlock == 0);
  const auto swap_block = [=](size_t first, size_t block_count) {
    T old[kSwapBlock];
    for (size_t j = 0; j < block_count; ++j) old[j] = weights[index[first + j]];
    for (size_t j = 0; j < block_count; ++j) weights[index[first + j]] = values[first + j];
    __builtin_memcpy(out + first, old, block_count * sizeof(T));
  };
  const size_t block_end = count - count % kSwapBlock;
  for_each_ahead<kDistance / kSwapBlock>(
      block_end / kSwapBlock,
      [=](size_t block) {
        for (size_t j = 0; j < kSwapBlock; ++j)
          ask_to_write(weights + index[block * kSwapBlock + j]);
      },
      [=](size_t block) { swap_block(block * kSwapBlock, kSwapBlock); });
  swap_block(block_end, count - block_end);
}

// A call of memcpy costs more than a short run.
constexpr size_t kInlineBytes = 256;

/// memcpy in blocks, of which the last one overlaps the one before; what is shorter than a block in
/// blocks of half the size.
template <size_t kBlockBytes>
static inline void copy_blocks(uint8_t* to, const uint8_t* from, size_t size_bytes) {
  if (size_bytes >= kBlockBytes) {
    const size_t last = size_bytes - kBlockBytes;
    for (size_t i = 0; i < last; i += kBlockBytes) __builtin_memcpy(to + i, from + i, kBlockBytes);
    __builtin_memcpy(to + last, from + last, kBlockBytes);
  } else if constexpr (kBlockBytes > 1) {
    copy_blocks<kBlockBytes / 2>(to, from, size_bytes);
  }
}

template <size_t kBlockBytes>
static inline void copy_bytes(void* to, const void* from, size_t size_bytes) {
  if (size_bytes <= kInlineBytes) {
    copy_blocks<kBlockBytes>(static_cast<uint8_t*>(to), static_cast<const uint8_t*>(from),
                             size_bytes);
  } else {
    __builtin_memcpy(to, from, size_bytes);
  }
}

constexpr size_t kScalarBlockBytes = 32;

template <typename T, size_t kBlockBytes = kScalarBlockBytes,
          size_t kDistance = kRunPrefetchDistance>
static void gather_runs(const T* weights, const Run* runs, size_t run_count, T* out) {
  for_each_ahead<kDistance>(
      run_count,
      [=](size_t r) {
        ask_to_read(weights + runs[r].start);
        ask_to_read(weights + runs[r].start + runs[r].length - 1);
      },
      [&](size_t r) {
        copy_bytes<kBlockBytes>(out, weights + runs[r].start, runs[r].length * sizeof(T));
        out += runs[r].length;
      });
}

template <typename T, size_t kBlockBytes = kScalarBlockBytes,
          size_t kDistance = kRunPrefetchDistance>
static void store_runs(T* weights, const Run* runs, size_t run_count, const T* values) {
  for_each_ahead<kDistance>(
      run_count, [=](size_t r) { ask_to_write(weights + runs[r].start); },
      [&](size_t r) {
        copy_bytes<kBlockBytes>(weights + runs[r].start, values, runs[r].length * sizeof(T));
        values += runs[r].length;
      });
}

template <typename T, size_t kBlockBytes = kScalarBlockBytes,
          size_t kDistance = kRunPrefetchDistance>
static void swap_runs(T* weights, const Run* runs, size_t run_count, const T* values, T* out) {
  constexpr size_t kPiece = kInlineBytes / sizeof(T);
  for_each_ahead<kDistance>(
      run_count,
      [=](size_t r) {
        ask_to_write(weights + runs[r].start);
        ask_to_write(weights + runs[r].start + runs[r].length - 1);
      },
      [&](size_t r) {
        T* begin = weights + runs[r].start;
        for (size_t left = runs[r].length; left > 0;) {
          const size_t count = left < kPiece ? left : kPiece;
          copy_bytes<kBlockBytes>(out, begin, count * sizeof(T));
          copy_bytes<kBlockBytes>(begin, values, count * sizeof(T));
          begin += count;
          values += count;
          out += count;
          left -= count;
        }
      });
}

}  // namespace shira::kernels
