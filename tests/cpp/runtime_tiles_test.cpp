// Cutting lists into tiles, against a walk over single positions.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "runtime/list_walker.h"

namespace shira {
namespace {

constexpr uint64_t kTile = TileWalker::kTileEntries;
using Flat = std::vector<uint32_t>;

IndexList list_of(const Flat& flat, bool runs) {
  IndexList list;
  list.entry_count = flat.size();
  if (!runs) {
    list.entries = std::move(Array<uint32_t>::make(flat.size()).value());
    std::copy(flat.begin(), flat.end(), list.entries.data());
    return list;
  }
  std::vector<Run> joined;
  for (const uint32_t position : flat) {
    if (joined.empty() || joined.back().start + joined.back().length != position)
      joined.push_back(Run{position, 0});
    ++joined.back().length;
  }
  list.runs = std::move(Array<Run>::make(joined.size()).value());
  std::copy(joined.begin(), joined.end(), list.runs.data());
  return list;
}

std::shared_ptr<const Positions> positions_of(const Flat& flat, bool runs) {
  if (flat.empty()) return nullptr;
  static uint8_t memory[4];
  const TensorSpec spec{"t", Dtype::f32, {UINT32_MAX}, memory, nullptr, {}};
  return Positions::make(std::make_shared<IndexList>(list_of(flat, runs)), spec).value();
}

/// The positions of a slice, as the kernels will see them.
Flat expand(const Positions* positions, const Slice& slice) {
  Flat flat;
  if (positions == nullptr) return flat;
  const IndexList& list = *positions->list;
  for (size_t i = 0; i < slice.unit_count; ++i) {
    const size_t unit = slice.first_unit + i;
    Run run = list.is_runs() ? list.runs[unit] : Run{list.entries[unit], 1};
    const uint32_t front = i == 0 ? slice.skip_front : 0;
    run.length -= front + (i + 1 == slice.unit_count ? slice.skip_back : 0);
    for (uint32_t j = 0; j < run.length; ++j) flat.push_back(run.start + front + j);
  }
  return flat;
}

/// The slice must be the part of `flat` in [begin, end), and say where its values stand.
void expect_slice(const Flat& flat, const Positions* positions, const Slice& slice, uint64_t begin,
                  uint64_t end) {
  const auto first = std::lower_bound(flat.begin(), flat.end(), begin);
  const auto last = std::lower_bound(flat.begin(), flat.end(), end);
  ASSERT_EQ(expand(positions, slice), Flat(first, last)) << "[" << begin << ", " << end << ")";
  EXPECT_EQ(slice.entry_count, static_cast<uint64_t>(last - first));
  EXPECT_LE(slice.entry_count, kTile);
  if (first != last) {
    EXPECT_EQ(slice.first_entry, static_cast<uint64_t>(first - flat.begin()));
  }
}

void expect_tiles(const Flat& a, const Flat& b, bool a_runs, bool b_runs, uint64_t begin,
                  uint64_t end) {
  const auto positions_a = positions_of(a, a_runs);
  const auto positions_b = positions_of(b, b_runs);
  TileWalker walker(positions_a.get(), positions_b.get(), begin, end);
  uint64_t next = begin;
  for (Tile tile; walker.next(&tile); next = tile.end_position) {
    ASSERT_GT(tile.end_position, next);
    ASSERT_LE(tile.end_position, end);
    expect_slice(a, positions_a.get(), tile.a, next, tile.end_position);
    expect_slice(b, positions_b.get(), tile.b, next, tile.end_position);
    if (::testing::Test::HasFatalFailure()) return;
  }
  for (const Flat* flat : {&a, &b}) {
    EXPECT_EQ(std::lower_bound(flat->begin(), flat->end(), next),
              std::lower_bound(flat->begin(), flat->end(), end))
        << "the walk ended at " << next << " of [" << begin << ", " << end << ")";
  }
}

void expect_all_shapes(const Flat& a, const Flat& b, uint64_t begin, uint64_t end) {
  for (const bool a_runs : {false, true}) {
    for (const bool b_runs : {false, true}) {
      expect_tiles(a, b, a_runs, b_runs, begin, end);
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
}

Flat range(uint32_t begin, uint32_t end) {
  Flat flat;
  for (uint32_t i = begin; i < end; ++i) flat.push_back(i);
  return flat;
}

TEST(Tiles, RandomListsAndRanges) {
  std::mt19937_64 random(5);
  for (int round = 0; round < 30; ++round) {
    Flat flats[2];
    for (Flat& flat : flats) {
      const uint32_t period = 1 + static_cast<uint32_t>(random() % 12);
      const uint32_t longest = 1 + static_cast<uint32_t>(random() % (round % 3 == 0 ? 9000 : 20));
      for (uint32_t i = 0; i < 90000;) {
        const auto length = 1 + static_cast<uint32_t>(random() % longest);
        for (uint32_t j = 0; j < length; ++j) flat.push_back(i + j);
        i += length + 1 + static_cast<uint32_t>(random() % (longest * period));
      }
    }
    expect_all_shapes(flats[0], flats[1], 0, ListWalker::kEnd);
    const uint64_t begin = random() % 90000;
    expect_all_shapes(flats[0], flats[1], begin, begin + random() % 90000);
    if (HasFatalFailure()) return;
  }
}

TEST(Tiles, OneListAlone) {
  const Flat flat = range(10, 3 * kTile);
  expect_all_shapes(flat, {}, 0, ListWalker::kEnd);
  expect_all_shapes({}, flat, 0, ListWalker::kEnd);
  expect_all_shapes({}, {}, 0, ListWalker::kEnd);
}

TEST(Tiles, OneGiantRunAgainstEntries) {
  const uint32_t end = 3 * Positions::kMarkEntries + 17;
  Flat odd;
  for (uint32_t i = 1; i < end; i += 2) odd.push_back(i);
  expect_all_shapes(range(0, end), odd, 0, ListWalker::kEnd);
  // As tasks take it: from mark to mark, in the middle of the run.
  for (uint64_t mark = 0; mark < end; mark += Positions::kMarkEntries)
    expect_all_shapes(range(0, end), odd, mark, mark + Positions::kMarkEntries);
}

TEST(Tiles, ListsThatMeetAtTheBordersOfTiles) {
  const Flat low = range(0, kTile);
  const Flat high = range(kTile, 2 * kTile);
  expect_all_shapes(low, high, 0, ListWalker::kEnd);
  expect_all_shapes(high, low, 0, ListWalker::kEnd);
  expect_all_shapes(range(0, 2 * kTile), high, 0, ListWalker::kEnd);
  expect_all_shapes(range(kTile - 1, kTile + 1), range(0, 2 * kTile), 0, ListWalker::kEnd);
  expect_all_shapes(low, low, 0, ListWalker::kEnd);
}

TEST(Tiles, AListThatIsDenseWhereTheOtherIsNot) {
  Flat spread;
  for (uint32_t i = 0; i < 1000; ++i) spread.push_back(i * 1000);
  expect_all_shapes(spread, range(500000, 500000 + 5 * kTile), 0, ListWalker::kEnd);
}

TEST(Tiles, TheEndOfTheIndexSpace) {
  const uint32_t last = UINT32_MAX - 1;
  expect_all_shapes({5, last - 1, last}, {last - 7, last}, 0, ListWalker::kEnd);
  expect_all_shapes({5, last - 1, last}, {last - 7, last}, last, ListWalker::kEnd);
}

}  // namespace
}  // namespace shira
