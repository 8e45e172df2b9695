// ArrayPool: arrays cut from one allocation, which lives until the last of them is gone.
// SPDX-License-Identifier: Apache-2.0
#include "base/array_pool.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace shira {
namespace {

/// Fills an array with numbers of its own, so that an overlap shows.
template <typename T>
void fill(Array<T>* array, T first) {
  for (size_t i = 0; i < array->size(); ++i) (*array)[i] = static_cast<T>(first + i);
}

template <typename T>
bool is_filled(const Array<T>& array, T first) {
  for (size_t i = 0; i < array.size(); ++i) {
    if (array[i] != static_cast<T>(first + i)) return false;
  }
  return true;
}

bool is_inside(const void* part, const Array<uint8_t>& probe, size_t size_bytes) {
  const auto* byte = static_cast<const uint8_t*>(part);
  return byte >= probe.data() && byte < probe.data() + size_bytes;
}

/// The pool that arrays of these sizes need, and the arrays.
struct Taken {
  explicit Taken(const std::vector<size_t>& counts, uint64_t spare_bytes = 0) {
    uint64_t size_bytes = spare_bytes;
    for (const size_t count : counts) size_bytes += ArrayPool::bytes_of<uint32_t>(count);
    auto pool = ArrayPool::make(size_bytes);
    EXPECT_TRUE(pool.ok());
    for (const size_t count : counts) {
      auto array = pool.value().take<uint32_t>(count);
      EXPECT_TRUE(array.ok());
      arrays.push_back(std::move(array.value()));
      EXPECT_EQ(arrays.back().size(), count);
      fill(&arrays.back(), static_cast<uint32_t>(arrays.size()) << 24);
    }
    rest = std::move(pool.value());
  }
  std::vector<Array<uint32_t>> arrays;
  ArrayPool rest;
};

TEST(ArrayPool, ArraysAreApartAndOutliveThePool) {
  std::optional<Taken> taken(std::in_place,
                             std::vector<size_t>{200001, 1, 300000, 0, 15, 400000, 3});
  std::vector<Array<uint32_t>> arrays = std::move(taken->arrays);
  taken.reset();  // the pool is gone
  for (size_t i = 0; i < arrays.size(); ++i) {
    EXPECT_TRUE(is_filled(arrays[i], static_cast<uint32_t>(i + 1) << 24)) << i;
  }
  for (size_t i = 1; i < arrays.size(); ++i) {
    const auto gap = reinterpret_cast<uintptr_t>(arrays[i].data()) -
                     reinterpret_cast<uintptr_t>(arrays[0].data());
    EXPECT_EQ(gap % 64, 0U) << "they share no cache line";
    EXPECT_LT(gap, uintptr_t{1} << 23) << "they are parts of one range";
  }
  Array<uint32_t> last = std::move(arrays[5]);
  arrays.clear();
  EXPECT_TRUE(is_filled(last, uint32_t{6} << 24)) << "the last part keeps the memory";
  last = Array<uint32_t>();
}

TEST(ArrayPool, ArraysOfSeveralTypes) {
  auto pool =
      ArrayPool::make(ArrayPool::bytes_of<uint8_t>(3000001) + ArrayPool::bytes_of<uint64_t>(1000));
  ASSERT_TRUE(pool.ok());
  auto bytes = pool.value().take<uint8_t>(3000001);
  auto words = pool.value().take<uint64_t>(1000);
  ASSERT_TRUE(bytes.ok() && words.ok());
  fill(&bytes.value(), uint8_t{3});
  fill(&words.value(), uint64_t{1} << 60);
  EXPECT_TRUE(is_filled(bytes.value(), uint8_t{3}));
  EXPECT_TRUE(is_filled(words.value(), uint64_t{1} << 60));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(words.value().data()) % alignof(uint64_t), 0U);
}

TEST(ArrayPool, WhatDoesNotFitHasItsOwnMemory) {
  constexpr size_t kBytes = 4 << 20;
  auto pool = ArrayPool::make(kBytes);
  ASSERT_TRUE(pool.ok());
  auto first = pool.value().take<uint8_t>(kBytes - 100);
  auto second = pool.value().take<uint32_t>(1000);
  auto third = pool.value().take<uint8_t>(10);
  ASSERT_TRUE(first.ok() && second.ok() && third.ok());
  EXPECT_FALSE(is_inside(second.value().data(), first.value(), kBytes));
  EXPECT_TRUE(is_inside(third.value().data(), first.value(), kBytes)) << "the rest is still used";
  fill(&first.value(), uint8_t{1});
  fill(&second.value(), 7U);
  fill(&third.value(), uint8_t{9});
  EXPECT_TRUE(is_filled(first.value(), uint8_t{1}));
  EXPECT_TRUE(is_filled(second.value(), 7U));
  const auto huge = pool.value().take<uint64_t>(SIZE_MAX / 4);
  ASSERT_FALSE(huge.ok());
  EXPECT_EQ(huge.error().status, Status::OUT_OF_MEMORY);
}

TEST(ArrayPool, SmallPoolsAreNone) {
  for (const uint64_t size_bytes : {uint64_t{0}, uint64_t{1000}, uint64_t{2 << 20} - 1}) {
    auto pool = ArrayPool::make(size_bytes);
    ASSERT_TRUE(pool.ok());
    auto first = pool.value().take<uint8_t>(64);
    auto second = pool.value().take<uint8_t>(64);
    ASSERT_TRUE(first.ok() && second.ok());
    EXPECT_NE(first.value().data() + 64, second.value().data()) << "each is an allocation";
  }
}

TEST(ArrayPool, PartsHaveRoomsOfTheirOwn) {
  constexpr uint64_t kPartBytes = 3 << 20;
  auto pool = ArrayPool::make(2 * kPartBytes + 64);
  ASSERT_TRUE(pool.ok());
  ArrayPool first = pool.value().cut(kPartBytes);
  ArrayPool second = pool.value().cut(kPartBytes);
  auto in_second = second.take<uint8_t>(kPartBytes);
  auto in_first = first.take<uint8_t>(kPartBytes);
  auto behind = first.take<uint8_t>(64);  // of its own memory: the next room is not its
  auto in_rest = pool.value().take<uint8_t>(64);
  EXPECT_EQ(in_first.value().data() + kPartBytes, in_second.value().data());
  EXPECT_EQ(in_second.value().data() + kPartBytes, in_rest.value().data());
  const uint8_t* const begin = in_first.value().data();
  EXPECT_TRUE(behind.value().data() + 64 <= begin ||
              behind.value().data() >= begin + 2 * kPartBytes);
  auto none = pool.value().cut(100).take<uint8_t>(100);
  EXPECT_TRUE(none.ok()) << "an array that no pool has room for owns its memory";
}

}  // namespace
}  // namespace shira
