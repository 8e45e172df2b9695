// What memory allows: the loops that a switch is measured against.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/run.h"

namespace shira::bench {

/// weights[index[j]] ^= 1: reads, changes and writes one element of each line that it is given,
/// asking for lines `kDistance` entries ahead. Called twice it restores the weights.
template <typename T, size_t kDistance>
void touch(T* weights, const uint32_t* index, size_t count) {
  size_t j = 0;
  if constexpr (kDistance > 0) {
    for (; j + kDistance < count; ++j) {
      __builtin_prefetch(weights + index[j + kDistance], 1);
      weights[index[j]] ^= 1;
    }
  }
  for (; j < count; ++j) weights[index[j]] ^= 1;
}

/// The exclusive or of one element of each line that it is given, asked for as by touch(): what
/// bringing the lines takes if nothing is changed.
template <typename T, size_t kDistance>
T read_lines(const T* weights, const uint32_t* index, size_t count) {
  T result = 0;
  size_t j = 0;
  if constexpr (kDistance > 0) {
    for (; j + kDistance < count; ++j) {
      __builtin_prefetch(weights + index[j + kDistance], 0);
      result ^= weights[index[j]];
    }
  }
  for (; j < count; ++j) result ^= weights[index[j]];
  return result;
}

/// Copies the values of each run to its place, by the system's memcpy().
template <typename T>
void copy_runs(T* weights, const Run* runs, size_t run_count, const T* values) {
  for (size_t r = 0; r < run_count; ++r) {
    std::memcpy(weights + runs[r].start, values, runs[r].length * sizeof(T));
    values += runs[r].length;
  }
}

/// STREAM's copy and triad.
inline void stream_copy(const double* a, double* c, size_t count) {
  for (size_t j = 0; j < count; ++j) c[j] = a[j];
}

inline void stream_triad(double* a, const double* b, const double* c, double scalar, size_t count) {
  for (size_t j = 0; j < count; ++j) a[j] = b[j] + scalar * c[j];
}

/// The exclusive or of all words: reads every byte once.
inline uint64_t read_all(const uint64_t* words, size_t count) {
  uint64_t result = 0;
  for (size_t j = 0; j < count; ++j) result ^= words[j];
  return result;
}

// --- Layouts of a list of positions in memory, and how far ahead to prefetch. The loops are
// plain, so that what differs between them is the layout alone.

template <typename T, size_t kDistance>
void store_flat32(T* weights, const uint32_t* index, size_t count, const T* values) {
  size_t j = 0;
  if constexpr (kDistance > 0) {
    for (; j + kDistance < count; ++j) {
      __builtin_prefetch(weights + index[j + kDistance], 1);
      weights[index[j]] = values[j];
    }
  }
  for (; j < count; ++j) weights[index[j]] = values[j];
}

template <typename T, size_t kDistance>
void swap_flat32(T* weights, const uint32_t* index, size_t count, const T* values, T* out) {
  size_t j = 0;
  if constexpr (kDistance > 0) {
    for (; j + kDistance < count; ++j) {
      __builtin_prefetch(weights + index[j + kDistance], 1);
      out[j] = weights[index[j]];
      weights[index[j]] = values[j];
    }
  }
  for (; j < count; ++j) {
    out[j] = weights[index[j]];
    weights[index[j]] = values[j];
  }
}

/// gaps[j] = index[j] - index[j - 1], index[-1] being 0. REQUIRES: every gap is below 65536.
template <typename T, size_t kDistance>
void store_gaps16(T* weights, const uint16_t* gaps, size_t count, const T* values) {
  const T* ahead = weights;
  for (size_t j = 0; j < kDistance && j < count; ++j) ahead += gaps[j];
  size_t j = 0;
  for (; j + kDistance < count; ++j) {
    ahead += gaps[j + kDistance];
    __builtin_prefetch(ahead, 1);
    weights += gaps[j];
    *weights = values[j];
  }
  for (; j < count; ++j) {
    weights += gaps[j];
    *weights = values[j];
  }
}

/// Entries of row r stand at row_starts[r] .. row_starts[r + 1]. REQUIRES: fewer than 65537
/// columns.
template <typename T, size_t kDistance>
void store_row_csr(T* weights, const uint32_t* row_starts, size_t row_count, size_t column_count,
                   const uint16_t* columns, const T* values) {
  const size_t count = row_starts[row_count];
  for (size_t r = 0; r < row_count; ++r, weights += column_count) {
    const size_t end = row_starts[r + 1];
    for (size_t j = row_starts[r]; j < end; ++j) {
      const size_t ahead = j + kDistance;
      // What is ahead lies in this row or, nearly always, in the next one.
      if (ahead < count) {
        __builtin_prefetch(weights + (ahead < end ? 0 : column_count) + columns[ahead], 1);
      }
      weights[columns[j]] = values[j];
    }
  }
}

}  // namespace shira::bench
