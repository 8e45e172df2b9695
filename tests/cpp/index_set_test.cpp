// Index algebra against std::set, over every combination of entries and runs.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/index_set.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "base/process_maps.h"
#include "runtime/positions.h"

namespace shira {
namespace {

using Set = std::set<uint32_t>;

IndexList make_entries(const Set& positions) {
  IndexList list;
  list.entries = std::move(Array<uint32_t>::make(positions.size()).value());
  std::copy(positions.begin(), positions.end(), list.entries.data());
  list.entry_count = positions.size();
  return list;
}

// Cuts consecutive positions at random, so that touching runs occur.
IndexList make_runs(const Set& positions, std::mt19937_64& random) {
  std::vector<Run> runs;
  for (const uint32_t position : positions) {
    const bool touches = !runs.empty() && runs.back().start + runs.back().length == position;
    if (touches && random() % 4 != 0) {
      ++runs.back().length;
    } else {
      runs.push_back(Run{position, 1});
    }
  }
  IndexList list;
  list.runs = std::move(Array<Run>::make(runs.size()).value());
  std::copy(runs.begin(), runs.end(), list.runs.data());
  list.entry_count = positions.size();
  return list;
}

std::vector<uint32_t> expand(const IndexList& list) {
  std::vector<uint32_t> positions(list.entries.data(), list.entries.data() + list.entries.size());
  for (size_t i = 0; i < list.runs.size(); ++i) {
    for (uint32_t j = 0; j < list.runs[i].length; ++j) positions.push_back(list.runs[i].start + j);
  }
  EXPECT_EQ(positions.size(), list.entry_count);
  return positions;
}

Set random_set(std::mt19937_64& random, uint32_t universe) {
  Set positions;
  const size_t burst_count = 1 + random() % 30;
  for (size_t i = 0; i < burst_count; ++i) {
    const auto start = static_cast<uint32_t>(random() % universe);
    const auto length = static_cast<uint32_t>(1 + random() % 9);
    for (uint32_t j = start; j < std::min(start + length, universe); ++j) positions.insert(j);
  }
  return positions;
}

template <typename T>
std::vector<T> values_of(const Set& positions, T salt) {
  std::vector<T> values;
  for (const uint32_t position : positions) values.push_back(static_cast<T>(position * 31 + salt));
  return values;
}

template <typename T>
void check_pair(const Set& set_a, const IndexList& a, const Set& set_b, const IndexList& b) {
  Set both_sets = set_a;
  both_sets.insert(set_b.begin(), set_b.end());
  EXPECT_EQ(expand(unite(a, b).value()), std::vector<uint32_t>(both_sets.begin(), both_sets.end()));

  std::vector<T> a_values = values_of<T>(set_a, 1);
  std::vector<T> b_values = values_of<T>(set_b, 2);
  copy_common(a, reinterpret_cast<const uint8_t*>(a_values.data()), b,
              reinterpret_cast<uint8_t*>(b_values.data()), sizeof(T));
  size_t offset = 0;
  for (const uint32_t position : set_b) {
    EXPECT_EQ(b_values[offset++],
              static_cast<T>(position * 31 + (set_a.count(position) != 0 ? 1 : 2)));
  }
}

TEST(IndexSet, EveryOperationEqualsStdSet) {
  std::mt19937_64 random(20261121);
  for (int round = 0; round < 500; ++round) {
    const auto universe = static_cast<uint32_t>(1 + random() % 300);
    const Set set_a = random_set(random, universe);
    const Set set_b = round % 50 == 0 ? Set{} : random_set(random, universe);
    const IndexList lists_a[] = {make_entries(set_a), make_runs(set_a, random)};
    const IndexList lists_b[] = {make_entries(set_b), make_runs(set_b, random)};
    for (const IndexList& a : lists_a) {
      for (const IndexList& b : lists_b) {
        check_pair<uint16_t>(set_a, a, set_b, b);
        check_pair<uint32_t>(set_b, b, set_a, a);
      }
    }
  }
}

// Wide enough for many windows of 65,536 positions, some of them empty on one side.
TEST(IndexSet, ScatteredListsEqualStdSet) {
  std::mt19937_64 random(12);
  for (int round = 0; round < 20; ++round) {
    Set sets[2];
    for (Set& set : sets) {
      const uint32_t universe = random() % 2 == 0 ? 200000U : 4294967294U;
      for (int i = 0; i < 300; ++i) set.insert(static_cast<uint32_t>(random() % universe));
    }
    for (int i = 0; i < 50; ++i)
      sets[0].insert(*std::next(sets[1].begin(), static_cast<int>(random() % 200)));
    check_pair<uint16_t>(sets[0], make_entries(sets[0]), sets[1], make_entries(sets[1]));
    check_pair<uint32_t>(sets[1], make_entries(sets[1]), sets[0], make_entries(sets[0]));
  }
}

TEST(IndexSet, WorksAtTheEndOfTheIndexSpace) {
  const Set set_a = {0, 4294967292U, 4294967293U, 4294967294U - 1};
  const Set set_b = {4294967293U};
  std::mt19937_64 random(1);
  check_pair<uint32_t>(set_a, make_runs(set_a, random), set_b, make_runs(set_b, random));
  check_pair<uint32_t>(set_a, make_entries(set_a), set_b, make_runs(set_b, random));
}

TEST(IndexSet, PositionAtFindsEveryEntry) {
  std::mt19937_64 random(2);
  const Set positions = random_set(random, 500);
  const IndexList lists[] = {make_entries(positions), make_runs(positions, random)};
  for (const IndexList& list : lists) {
    uint64_t offset = 0;
    for (const uint32_t position : positions) EXPECT_EQ(position_at(list, offset++), position);
  }
}

TEST(Positions, MarksStandAtEvenDistances) {
  std::mt19937_64 random(3);
  Set positions;
  for (uint32_t i = 0; i < 200000; ++i) {
    if (random() % 3 != 0) positions.insert(i);
  }
  const std::vector<uint32_t> flat(positions.begin(), positions.end());
  std::vector<uint8_t> memory(200000 * 4);
  const TensorSpec spec{"t", Dtype::f32, {200000}, memory.data(), nullptr, {}};
  for (const bool runs : {false, true}) {
    auto list =
        std::make_shared<IndexList>(runs ? make_runs(positions, random) : make_entries(positions));
    const auto made = Positions::make(list, spec).value();
    ASSERT_EQ(made->marks.size(), flat.size() / Positions::kMarkEntries + 1);
    for (size_t i = 0; i < made->marks.size(); ++i) {
      const Mark& mark = made->marks[i];
      EXPECT_EQ(mark.entry_offset, i * Positions::kMarkEntries);
      EXPECT_EQ(mark.position, flat[mark.entry_offset]);
      const shira::Run unit = runs ? list->runs[mark.unit_index]
                                   : shira::Run{list->entries[mark.unit_index], uint32_t{1}};
      EXPECT_GE(mark.position, unit.start);
      EXPECT_LT(mark.position, uint64_t{unit.start} + unit.length);
    }
  }
}

TEST(Positions, CountsDistinctPagesByAddress) {
  std::mt19937_64 random(4);
  std::vector<uint8_t> memory(64 * page_bytes() + 64);
  uint8_t* unaligned = memory.data() + 34;  // crosses pages at odd places
  const TensorSpec spec{"t",       Dtype::f16, {static_cast<uint32_t>(32 * page_bytes())},
                        unaligned, nullptr,    {}};
  const auto pages_of = [&](const Set& set) {
    std::set<uintptr_t> pages;
    for (const uint32_t i : set)
      pages.insert(reinterpret_cast<uintptr_t>(unaligned + i * 2) / page_bytes());
    return pages;
  };
  for (int round = 0; round < 20; ++round) {
    const Set set_a = random_set(random, spec.dims[0]);
    const Set set_b = random_set(random, spec.dims[0]);
    const auto a = Positions::make(std::make_shared<IndexList>(make_entries(set_a)), spec).value();
    const auto b =
        Positions::make(std::make_shared<IndexList>(make_runs(set_b, random)), spec).value();
    std::set<uintptr_t> both = pages_of(set_a);
    EXPECT_EQ(a->pages.count(), both.size());
    both.merge(pages_of(set_b));
    EXPECT_EQ(PageSet::count_union(a->pages, b->pages), both.size());
    EXPECT_EQ(PageSet::unite(a->pages, b->pages).value().count(), both.size());
    EXPECT_EQ(PageSet::unite(b->pages, a->pages).value().count(), both.size());
  }
}

}  // namespace
}  // namespace shira
