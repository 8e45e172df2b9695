// LoRA fusion in C++: weights += scale * B A, by the matrix product of Eigen on one thread.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

namespace shira::bench {

enum class Element { f32, f16, bf16 };

/// A weight of shape (rows, columns) and the factors B (rows, rank) and A (rank, columns) in
/// float32, all row-major.
struct Fusion {
  void* weights;
  Element element;
  size_t rows;
  size_t columns;
  size_t rank;
  const float* b;
  const float* a;
};

/// weights += scale * B A. Weights of 16 bits are widened tile by tile, added to in float32 and
/// rounded once, so that a tile's product and its weights stay in the cache.
void fuse_lora(const Fusion& fusion, float scale);

}  // namespace shira::bench
