// Walking the entries of one list, or of two lists together, in tiles that fit the caches.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "format/index_list.h"
#include "runtime/positions.h"

namespace shira {

/// Takes a list apart from front to back.
class ListWalker {
 public:
  /// Behind every position.
  static constexpr uint64_t kEnd = uint64_t{1} << 32;

  /// nullptr is an empty list. REQUIRES: the positions outlive the walker.
  explicit ListWalker(const Positions* positions);

  /// Goes to the first entry at or behind `position`, from wherever it is.
  void seek(uint64_t position);

  /// The position of the entry that lies `entry_count` entries ahead, kEnd where there is none.
  uint64_t position_ahead(uint64_t entry_count) const;

  /// The entries below `end_position`, and goes behind them. REQUIRES: at most `limit` of them.
  Slice take_below(uint64_t end_position, uint64_t limit = UINT64_MAX);

 private:
  Slice take_runs_below(uint64_t end_position);

  const Positions* positions_;
  const uint32_t* entries_ = nullptr;
  const Run* runs_ = nullptr;
  size_t unit_count_ = 0;
  size_t unit_index_ = 0;
  uint32_t used_ = 0;  // of the current run
  uint64_t entry_offset_ = 0;
};

/// What two lists have in one range of positions.
struct Tile {
  uint64_t end_position = 0;
  Slice a;
  Slice b;
};

/// Walks two lists together, so that what one pass over `a` has brought into the caches is still
/// there for the pass over `b`.
class TileWalker {
 public:
  /// Neither list has more entries in one tile. Few enough that the cache lines they lie on, of
  /// both lists, stay in a second-level cache, and many enough to hide what a tile costs by itself.
  static constexpr uint64_t kTileEntries = 4096;

  /// Walks [begin_position, end_position). nullptr is an empty list.
  TileWalker(const Positions* a, const Positions* b, uint64_t begin_position,
             uint64_t end_position);

  /// The next tile that has entries; false when there is none.
  bool next(Tile* tile);

 private:
  ListWalker a_;
  ListWalker b_;
  const uint64_t end_position_;
};

}  // namespace shira
