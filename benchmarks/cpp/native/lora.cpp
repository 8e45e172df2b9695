// LoRA fusion with Eigen. Compiled for the machine that it runs on: the baseline shall be strong.
// SPDX-License-Identifier: Apache-2.0
#include "lora.h"

#include <Eigen/Core>
#include <algorithm>

namespace shira::bench {
namespace {

template <typename T>
using RowMajor = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
// Tiles of whole rows, of 2 MiB in float32: of the tiles tried (64 to 512 rows, 256 to all columns)
// the fastest.
constexpr size_t kTileElements = size_t{1} << 19;

template <typename T>
void fuse_tiled(const Fusion& fusion, float scale) {
  const auto columns = static_cast<Eigen::Index>(fusion.columns);
  const auto rank = static_cast<Eigen::Index>(fusion.rank);
  const size_t tile_rows = std::max<size_t>(1, kTileElements / fusion.columns);
  RowMajor<float> tile(static_cast<Eigen::Index>(tile_rows), columns);
  const Eigen::Map<const RowMajor<float>> a(fusion.a, rank, columns);
  for (size_t row = 0; row < fusion.rows; row += tile_rows) {
    const auto height = static_cast<Eigen::Index>(std::min(tile_rows, fusion.rows - row));
    const Eigen::Map<const RowMajor<float>> b(fusion.b + row * fusion.rank, height, rank);
    Eigen::Map<RowMajor<T>> target(static_cast<T*>(fusion.weights) + row * fusion.columns, height,
                                   columns);
    auto part = tile.topRows(height);
    part = target.template cast<float>();
    part.noalias() += scale * b * a;
    target = part.template cast<T>();
  }
}

void fuse_f32(const Fusion& fusion, float scale) {
  const auto rows = static_cast<Eigen::Index>(fusion.rows);
  const auto columns = static_cast<Eigen::Index>(fusion.columns);
  const auto rank = static_cast<Eigen::Index>(fusion.rank);
  Eigen::Map<RowMajor<float>> weights(static_cast<float*>(fusion.weights), rows, columns);
  const Eigen::Map<const RowMajor<float>> b(fusion.b, rows, rank);
  const Eigen::Map<const RowMajor<float>> a(fusion.a, rank, columns);
  weights.noalias() += scale * b * a;
}

}  // namespace

void fuse_lora(const Fusion& fusion, float scale) {
  switch (fusion.element) {
    case Element::f32:
      return fuse_f32(fusion, scale);
    case Element::f16:
      return fuse_tiled<Eigen::half>(fusion, scale);
    case Element::bf16:
      return fuse_tiled<Eigen::bfloat16>(fusion, scale);
  }
}

}  // namespace shira::bench
