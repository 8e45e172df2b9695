// The small types everything stands on: Array, ByteReader, size arithmetic, Result, status names.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdint>
#include <set>
#include <string>
#include <utility>

#include "base/array.h"
#include "base/byte_reader.h"
#include "base/checked_math.h"
#include "base/result.h"
#include "base/status.h"

namespace shira {
namespace {

TEST(Array, OwnsItsElementsAndMoves) {
  auto made = Array<uint32_t>::make(3);
  ASSERT_TRUE(made.ok());
  Array<uint32_t> first = std::move(made.value());
  first[2] = 7;
  Array<uint32_t> second = std::move(first);
  EXPECT_EQ(second.size(), 3U);
  EXPECT_EQ(second[2], 7U);
  EXPECT_TRUE(first.empty());  // NOLINT(bugprone-use-after-move): what is left behind is empty
  second.truncate(1);
  EXPECT_EQ(second.size(), 1U);
}

TEST(Array, RefusesWhatCannotBeAllocated) {
  const auto overflow = Array<uint32_t>::make(SIZE_MAX / 2);
  EXPECT_EQ(overflow.error().status, Status::OUT_OF_MEMORY);
  const auto empty = Array<uint32_t>::make(0);
  EXPECT_TRUE(empty.ok() && empty.value().empty());
}

TEST(ByteReader, ReadsLittleEndianInsideOnly) {
  const uint8_t bytes[] = {0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x88};
  const ByteReader reader(bytes, sizeof(bytes));
  EXPECT_EQ(reader.u8(7), 0x88);
  EXPECT_EQ(reader.u16(1), 0x0302);
  EXPECT_EQ(reader.u32(4), 0x88070605U);
  EXPECT_EQ(reader.u64(0), 0x8807060504030201U);

  uint32_t untouched = 42;
  for (const uint64_t offset : {uint64_t{5}, uint64_t{8}, UINT64_MAX, UINT64_MAX - 3}) {
    EXPECT_FALSE(reader.read(offset, &untouched)) << offset;
    EXPECT_EQ(reader.u32(offset), 0U) << offset;
  }
  EXPECT_EQ(untouched, 42U);
  EXPECT_EQ(ByteReader().u8(0), 0);
}

TEST(ByteReader, SlicesInsideOnly) {
  const uint8_t bytes[] = {1, 2, 3, 4};
  const ByteReader reader(bytes, sizeof(bytes));
  EXPECT_EQ(reader.slice(1, 3).size(), 3U);
  EXPECT_EQ(reader.slice(1, 3).u8(0), 2);
  EXPECT_EQ(reader.slice(4, 0).size(), 0U);
  EXPECT_EQ(reader.slice(1, 4).size(), 0U);
  EXPECT_EQ(reader.slice(UINT64_MAX, 2).size(), 0U);
}

TEST(CheckedMath, OverflowIsAnAnswer) {
  uint64_t out = 0;
  EXPECT_TRUE(checked_add(UINT64_MAX - 1, 1, &out));
  EXPECT_EQ(out, UINT64_MAX);
  EXPECT_FALSE(checked_add(UINT64_MAX, 1, &out));
  EXPECT_TRUE(checked_mul(UINT32_MAX, UINT32_MAX, &out));
  EXPECT_FALSE(checked_mul(UINT64_MAX, 2, &out));
  EXPECT_TRUE(range_fits(3, 2, 5));
  EXPECT_TRUE(range_fits(5, 0, 5));
  EXPECT_FALSE(range_fits(3, 3, 5));
  EXPECT_FALSE(range_fits(6, 0, 5));
  EXPECT_FALSE(range_fits(UINT64_MAX, UINT64_MAX, 5));
  EXPECT_EQ(align_up(0, 64), 0U);
  EXPECT_EQ(align_up(1, 64), 64U);
  EXPECT_EQ(align_up(64, 64), 64U);
}

Result<int> half_of(int number) {
  if (number % 2 != 0) return Error{Status::INVALID_ARGUMENT, "odd"};
  return number / 2;
}

Result<int> quarter_of(int number) {
  SHIRA_ASSIGN(const int half, half_of(number));
  SHIRA_TRY(half_of(half));
  return half / 2;
}

TEST(Result, CarriesAValueOrAnErrorUpwards) {
  EXPECT_EQ(quarter_of(12).value(), 3);
  EXPECT_EQ(quarter_of(6).error().message, "odd");
  EXPECT_EQ(quarter_of(7).error().status, Status::INVALID_ARGUMENT);
  EXPECT_EQ(quarter_of(7).error().offset_bytes, kNoOffset);
  EXPECT_TRUE(Result<void>().ok());
}

TEST(Status, EveryCodeHasItsOwnNameNumberAndText) {
  std::set<std::string> names;
  std::set<int> numbers;
  const Status all[] = {
#define X(number, name, parent, text) Status::name,
#include "shira/status.def"
#undef X
  };
  for (const Status status : all) {
    EXPECT_TRUE(names.insert(status_name(status)).second) << status_name(status);
    EXPECT_TRUE(numbers.insert(static_cast<int>(status)).second) << status_name(status);
    EXPECT_STRNE(status_text(status), "");
  }
  EXPECT_STREQ(status_name(Status::BAD_INDEX), "BAD_INDEX");
  EXPECT_STREQ(status_name(static_cast<Status>(9999)), "UNKNOWN");
  EXPECT_STRNE(status_text(static_cast<Status>(9999)), "");
}

}  // namespace
}  // namespace shira
