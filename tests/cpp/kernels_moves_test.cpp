// The kernels that move and compare bits, each implementation against a naive loop.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "kernels_support.h"

namespace shira::kernels {
namespace {

constexpr size_t kMaxCount = 200;  // past the prefetch distance and three of the widest vectors
constexpr size_t kWidestVectorBytes = 64;

INSTANTIATE_TEST_SUITE_P(Implementations, KernelsTest, every_implementation(), isa_name);

std::vector<uint32_t> increasing_index(size_t count) {
  std::vector<uint32_t> index;
  uint32_t position = 0;
  for (size_t i = 0; i < count; ++i) {
    position += random_u32() % (i % 3 == 0 ? 40 : 2);
    index.push_back(position++);
  }
  return index;
}

std::vector<Run> increasing_runs(size_t count) {
  std::vector<Run> runs;
  uint32_t position = 0;
  for (size_t i = 0; i < count; ++i) {
    position += i == 0 ? random_u32() % 2 : 1 + random_u32() % 5;
    const uint32_t longest = i % 31 == 0 ? 700 : i % 7 == 0 ? 70 : 5;
    runs.push_back({position, 1 + random_u32() % longest});
    position += runs.back().length;
  }
  return runs;
}

std::vector<uint32_t> positions_of(const std::vector<Run>& runs) {
  std::vector<uint32_t> positions;
  for (const Run& run : runs) {
    for (uint32_t j = 0; j < run.length; ++j) positions.push_back(run.start + j);
  }
  return positions;
}

/// The move operations over the entries or runs that a test has bound.
template <typename T>
struct BoundMoves {
  std::function<void(const T* weights, T* out)> gather;
  std::function<void(T* weights, const T* values)> store;
  std::function<void(T* weights, const T* values, T* out)> swap;
};

template <typename T>
BoundMoves<T> bind(const MoveKernels<T>& moves, const uint32_t* index, size_t count) {
  return {
      [=](const T* weights, T* out) { moves.gather(weights, index, count, out); },
      [=](T* weights, const T* values) { moves.store(weights, index, count, values); },
      [=](T* weights, const T* values, T* out) { moves.swap(weights, index, count, values, out); }};
}

template <typename T>
BoundMoves<T> bind(const MoveKernels<T>& moves, const Run* runs, size_t count) {
  return {[=](const T* weights, T* out) { moves.gather_runs(weights, runs, count, out); },
          [=](T* weights, const T* values) { moves.store_runs(weights, runs, count, values); },
          [=](T* weights, const T* values, T* out) {
            moves.swap_runs(weights, runs, count, values, out);
          }};
}

/// What each operation does at `positions`, and that it does nothing else.
template <typename T>
void check_moves(const std::vector<uint32_t>& positions, size_t shift, const BoundMoves<T>& moves) {
  const size_t element_count = positions.empty() ? 1 : positions.back() + 1;
  const std::vector<T> original = random_bits<T>(element_count);
  const std::vector<T> fresh = random_bits<T>(positions.size());
  std::vector<T> gathered;
  std::vector<T> expected = original;
  for (size_t j = 0; j < positions.size(); ++j) {
    gathered.push_back(original[positions[j]]);
    expected[positions[j]] = fresh[j];
  }
  Guarded<T> values(fresh, shift + 2);
  const auto run = [&](const std::vector<T>& weights_after, const std::vector<T>& out_after,
                       const auto& operation) {
    Guarded<T> weights(original, shift);
    Guarded<T> out(out_after.size(), shift / 2);
    operation(weights.data(), out.data());
    EXPECT_EQ(weights.elements(), weights_after);
    EXPECT_EQ(out.elements(), out_after);
    EXPECT_TRUE(weights.guards_intact() && out.guards_intact());
  };
  run(original, gathered, [&](T* weights, T* out) { moves.gather(weights, out); });
  run(expected, {}, [&](T* weights, T*) { moves.store(weights, values.data()); });
  run(expected, gathered, [&](T* weights, T* out) { moves.swap(weights, values.data(), out); });
  EXPECT_EQ(values.elements(), fresh);
  EXPECT_TRUE(values.guards_intact());
}

/// Calls check(count, shift) for every count and every place of the array's end in a vector, and
/// for some large counts.
template <typename T, typename Check>
void for_each_shape(Check check) {
  for (size_t count = 0; count <= kMaxCount; ++count) {
    for (size_t shift = 0; shift < kWidestVectorBytes / sizeof(T); ++shift) {
      SCOPED_TRACE("count " + std::to_string(count) + ", shift " + std::to_string(shift));
      check(count, shift);
      if (::testing::Test::HasFailure()) return;
    }
  }
  for (int round = 0; round < 8; ++round) {
    const size_t count = 4096 + random_u32() % 8192;  // counters of 8 bits would overflow
    SCOPED_TRACE("count " + std::to_string(count));
    check(count, count % 4);
  }
}

template <typename T>
void check_entry_moves(const MoveKernels<T>& moves) {
  for_each_shape<T>([&](size_t count, size_t shift) {
    const std::vector<uint32_t> index = increasing_index(count);
    Guarded<uint32_t> guarded(index, shift % 16);
    check_moves<T>(index, shift, bind(moves, guarded.data(), count));
    EXPECT_EQ(guarded.elements(), index);
  });
}

template <typename T>
void check_run_moves(const MoveKernels<T>& moves) {
  for (size_t count = 0; count <= kMaxCount; ++count) {
    SCOPED_TRACE("runs " + std::to_string(count));
    const std::vector<Run> runs = increasing_runs(count);
    Guarded<Run> guarded(runs, count % 4);
    check_moves<T>(positions_of(runs), count % 67, bind(moves, guarded.data(), count));
  }
  for_each_shape<T>([&](size_t length, size_t shift) {
    if (length == 0) return;
    const auto start = static_cast<uint32_t>(shift % 3);
    const auto length_u32 = static_cast<uint32_t>(length);
    const std::vector<Run> runs = {{start, length_u32}, {start + length_u32 + 1, length_u32}};
    check_moves<T>(positions_of(runs), shift, bind(moves, runs.data(), runs.size()));
  });
}

/// Equal and different elements in stretches and one by one; of some, one bit differs.
template <typename T>
void check_count_different(const MoveKernels<T>& moves) {
  for_each_shape<T>([&](size_t count, size_t shift) {
    const std::vector<T> a = random_bits<T>(count);
    std::vector<T> b = a;
    const uint32_t kind = random_u32() % 4;
    size_t different_count = 0;
    for (size_t j = 0; j < count; ++j) {
      const bool differs = kind == 0 ? false : kind == 1 ? true : random_u32() % kind == 0;
      if (!differs) continue;
      b[j] = static_cast<T>(b[j] ^ T{1} << random_u32() % (8 * sizeof(T)));
      ++different_count;
    }
    Guarded<T> left(a, shift);
    Guarded<T> right(b, shift / 2);
    EXPECT_EQ(moves.count_different(left.data(), right.data(), count), different_count);
  });
}

TEST_P(KernelsTest, EntryMoves) {
  check_entry_moves(table().u8);
  check_entry_moves(table().u16);
  check_entry_moves(table().u32);
}

TEST_P(KernelsTest, RunMoves) {
  check_run_moves(table().u8);
  check_run_moves(table().u16);
  check_run_moves(table().u32);
}

TEST_P(KernelsTest, CountDifferent) {
  check_count_different(table().u8);
  check_count_different(table().u16);
  check_count_different(table().u32);
}

/// An implementation that treats a position as signed, or computes its address in 32 bits, reads
/// before the weights. The address space is reserved, but only the touched pages become real.
template <typename T>
void check_far_positions(const MoveKernels<T>& moves) {
  const size_t size_bytes = (size_t{0x80000000} + 64) * sizeof(T);
  void* memory = mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) GTEST_SKIP() << "8 GiB of address space are not to be had";
  T* weights = static_cast<T*>(memory);
  std::vector<uint32_t> index;
  std::vector<T> values;
  for (uint32_t j = 0; j < 40; ++j) {
    index.push_back(0x80000000U + j);
    values.push_back(static_cast<T>(j + 1));
  }
  const Run run = {0x80000000U, 40};
  std::vector<T> out(values.size());
  moves.store(weights, index.data(), index.size(), values.data());
  EXPECT_EQ(weights[0x80000000U], 1);
  moves.gather(weights, index.data(), index.size(), out.data());
  EXPECT_EQ(out, values);
  const std::vector<T> zeros(values.size());
  moves.swap_runs(weights, &run, 1, zeros.data(), out.data());
  EXPECT_EQ(out, values);
  moves.gather_runs(weights, &run, 1, out.data());
  EXPECT_EQ(out, zeros);
  moves.store_runs(weights, &run, 1, values.data());
  EXPECT_EQ(weights[0x80000000U], 1);
  munmap(memory, size_bytes);
}

TEST_P(KernelsTest, PositionsAreUnsigned) {
  check_far_positions(table().u8);
  check_far_positions(table().u16);
  check_far_positions(table().u32);
}

TEST_P(KernelsTest, MovesOfNothing) {
  table().u16.store(nullptr, nullptr, 0, nullptr);
  table().u8.swap(nullptr, nullptr, 0, nullptr, nullptr);
  table().u32.gather(nullptr, nullptr, 0, nullptr);
  table().u32.store_runs(nullptr, nullptr, 0, nullptr);
  table().u16.swap_runs(nullptr, nullptr, 0, nullptr, nullptr);
  EXPECT_EQ(table().u8.count_different(nullptr, nullptr, 0), 0U);
}

}  // namespace
}  // namespace shira::kernels
