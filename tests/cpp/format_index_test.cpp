// Index codecs: round trips over boundary gaps, and every way in which a stream can be malformed.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "format/index_codec.h"
#include "shb_builder.h"

namespace shira {
namespace {

using testing::Bytes;
using testing::EncodedIndex;

constexpr uint64_t kMaxElements = 4294967295;

Result<IndexList> decode(IndexCodec codec, const EncodedIndex& encoded, uint64_t entry_count,
                         uint64_t element_count, uint32_t block_length = 0) {
  IndexStream stream;
  stream.codec = codec;
  stream.bytes = ByteReader(encoded.stream.data(), encoded.stream.size());
  stream.block_length = block_length;
  stream.unit_count = encoded.unit_count;
  stream.entry_count = entry_count;
  stream.element_count = element_count;
  return decode_index(stream);
}

std::vector<uint32_t> positions_of(const IndexList& list) {
  std::vector<uint32_t> positions(list.entries.data(), list.entries.data() + list.entries.size());
  for (size_t r = 0; r < list.runs.size(); ++r) {
    for (uint32_t j = 0; j < list.runs[r].length; ++j) positions.push_back(list.runs[r].start + j);
  }
  return positions;
}

/// Encodes, decodes and compares; also proves that one byte less, one byte more and one unit less
/// or more is refused.
void check_round_trip(IndexCodec codec, const std::vector<uint32_t>& index, uint64_t element_count,
                      uint32_t block_length = 0) {
  SCOPED_TRACE(std::string(index_codec_name(codec)) + " of " + std::to_string(index.size()) +
               " entries from " + std::to_string(index.front()));
  EncodedIndex encoded = testing::encode_index(codec, index, block_length);
  const auto list = decode(codec, encoded, index.size(), element_count, block_length);
  ASSERT_TRUE(list.ok()) << list.error().message;
  EXPECT_EQ(positions_of(list.value()), index);
  EXPECT_EQ(list.value().entry_count, index.size());
  const bool entries = codec == IndexCodec::gaps8 || codec == IndexCodec::gaps16;
  EXPECT_EQ(list.value().is_runs(), !entries);
  EXPECT_EQ(list.value().entries.empty(), !entries);
  for (size_t r = 1; r < list.value().runs.size(); ++r) {
    const Run& before = list.value().runs[r - 1];
    EXPECT_GT(list.value().runs[r].start, before.start + before.length)
        << "touching runs are one run";
  }

  const auto refused = [&](const EncodedIndex& bad) {
    const auto result = decode(codec, bad, index.size(), element_count, block_length);
    return !result.ok() && result.error().status == Status::BAD_INDEX &&
           result.error().offset_bytes <= bad.stream.size();
  };
  EncodedIndex bad = encoded;
  bad.stream.pop_back();
  EXPECT_TRUE(refused(bad)) << "one byte short";
  bad = encoded;
  bad.stream.push_back(0);
  EXPECT_TRUE(refused(bad)) << "one byte long";
  bad = encoded;
  ++bad.unit_count;
  EXPECT_TRUE(refused(bad)) << "one unit short";
  if (encoded.unit_count > 1) {
    --bad.unit_count;
    --bad.unit_count;
    EXPECT_TRUE(refused(bad)) << "one unit long";
  }
}

/// Gaps on both sides of every boundary of the digits.
const std::vector<uint32_t> kGaps = {0,      1,      127,    128,    253,     254,    255,
                                     256,    509,    510,    511,    764,     765,    766,
                                     16383,  16384,  65533,  65534,  65535,   65536,  70000,
                                     131069, 131070, 131071, 196605, 2097151, 2097152};

TEST(IndexCodec, RoundTripsEveryBoundaryGap) {
  for (const IndexCodec codec : {IndexCodec::gaps8, IndexCodec::gaps16, IndexCodec::runs}) {
    std::vector<uint32_t> all;
    uint32_t next = 0;
    for (const uint32_t gap : kGaps) {
      check_round_trip(codec, {gap}, uint64_t{gap} + 1);
      check_round_trip(codec, {gap, gap + 1 + gap}, uint64_t{2} * gap + 2);
      all.push_back(next + gap);
      next = all.back() + 1;
    }
    check_round_trip(codec, all, next);
    check_round_trip(codec, all, kMaxElements);
  }
}

TEST(IndexCodec, RoundTripsBlocks) {
  for (const IndexCodec codec : {IndexCodec::blocks8, IndexCodec::blocks16}) {
    for (const uint32_t length : {2U, 3U, 64U, 65535U}) {
      for (const uint32_t gap : {0U, 1U, 254U, 255U, 256U, 510U, 65534U, 65535U}) {
        const uint64_t last_block = gap + 2;
        if ((last_block + 1) * length > kMaxElements) continue;
        std::vector<uint32_t> index;
        for (const uint32_t block : {gap, gap + 2}) {  // apart: two runs
          for (uint32_t j = 0; j < length; ++j) index.push_back(block * length + j);
        }
        check_round_trip(codec, index, (last_block + 1) * length, length);
        check_round_trip(codec, index, (last_block + 1) * length + length - 1, length);
      }
    }
  }
}

TEST(IndexCodec, TouchingBlocksBecomeOneRun) {
  std::vector<uint32_t> index;
  for (const uint32_t block : {1U, 2U, 3U, 7U}) {
    for (uint32_t j = 0; j < 4; ++j) index.push_back(4 * block + j);
  }
  const auto encoded = testing::encode_index(IndexCodec::blocks8, index, 4);
  ASSERT_EQ(encoded.unit_count, 4U);
  const auto list = decode(IndexCodec::blocks8, encoded, index.size(), 32, 4);
  ASSERT_TRUE(list.ok());
  ASSERT_EQ(list.value().runs.size(), 2U);
  EXPECT_EQ(list.value().runs[0].start, 4U);
  EXPECT_EQ(list.value().runs[0].length, 12U);
  EXPECT_EQ(list.value().runs[1].start, 28U);
  EXPECT_EQ(list.value().runs[1].length, 4U);
}

TEST(IndexCodec, RoundTripsRandomMasks) {
  std::mt19937 random(20261121);
  for (int round = 0; round < 60; ++round) {
    const uint32_t spread = uint32_t{1} << (random() % 12);
    std::vector<uint32_t> index;
    uint32_t next = 0;
    for (size_t i = 0; i < 1 + random() % 2000; ++i) {
      index.push_back(next + static_cast<uint32_t>(random()) % spread);
      next = index.back() + 1;
    }
    for (const IndexCodec codec : {IndexCodec::gaps8, IndexCodec::gaps16, IndexCodec::runs}) {
      check_round_trip(codec, index, next);
    }
  }
}

TEST(IndexCodec, ReachesTheLastElementOfTheLargestTensor) {
  const uint32_t last = static_cast<uint32_t>(kMaxElements - 1);
  for (const IndexCodec codec : {IndexCodec::gaps8, IndexCodec::gaps16, IndexCodec::runs}) {
    check_round_trip(codec, {0, last}, kMaxElements);
    const EncodedIndex encoded = testing::encode_index(codec, {0, last}, 0);
    EXPECT_EQ(decode(codec, encoded, 2, kMaxElements - 1).error().status, Status::BAD_INDEX);
  }
}

TEST(IndexCodec, OneRunMayCoverEverything) {
  const auto list = decode(IndexCodec::runs, {{0x00, 0xFE, 0xFF, 0xFF, 0xFF, 0x0F}, 1},
                           kMaxElements, kMaxElements);
  ASSERT_TRUE(list.ok()) << list.error().message;
  EXPECT_EQ(list.value().runs[0].length, kMaxElements);
}

struct Malformed {
  const char* what;
  IndexCodec codec;
  Bytes stream;
  uint32_t unit_count;
  uint64_t entry_count;
  uint64_t element_count;
  uint64_t offset;  // of the error
  const char* message;
  uint32_t block_length = 0;
};

const IndexCodec kG8 = IndexCodec::gaps8;
const IndexCodec kG16 = IndexCodec::gaps16;
const IndexCodec kR = IndexCodec::runs;
const IndexCodec kB8 = IndexCodec::blocks8;
const IndexCodec kB16 = IndexCodec::blocks16;

const Malformed kMalformed[] = {
    {"first entry behind the end", kG8, {10}, 1, 1, 10, 0, "leaves the tensor"},
    {"last entry behind the end", kG8, {0, 0, 8}, 3, 3, 10, 2, "leaves the tensor"},
    {"long gap behind the end", kG8, {0, 255, 255, 0}, 2, 2, 511, 1, "leaves the tensor"},
    {"gap without its last digit", kG8, {0, 255}, 2, 2, 1000, 2, "ends after 1 of 2"},
    {"stream too short for its units", kG8, {0, 0}, 3, 3, 10, 2, "ends after 2 of 3"},
    {"stream too short for four billion units",
     kG8,
     {0, 0},
     0xFFFFFFFF,
     0xFFFFFFFF,
     kMaxElements,
     2,
     "ends after 2"},
    {"stream too long", kG8, {0, 0, 0, 0}, 3, 3, 10, 3, "has 1 bytes behind"},
    {"empty stream", kG8, {}, 1, 1, 10, 0, "ends after 0 of 1"},
    {"half a digit", kG16, {0, 0, 0}, 2, 2, 10, 3, "ends after 1 of 2"},
    {"half a digit too many", kG16, {0, 0, 0}, 1, 1, 10, 2, "has 1 bytes behind"},
    {"gap without its last digit", kG16, {1, 0, 0xFF, 0xFF}, 2, 2, 1000000, 4, "ends after 1 of 2"},
    {"entry behind the end", kG16, {1, 0, 8, 0}, 2, 2, 10, 2, "leaves the tensor"},
    {"touching runs", kR, {0, 1, 0, 0}, 2, 3, 10, 2, "touches the run before"},
    {"run behind the end", kR, {0, 1, 7, 1}, 2, 4, 10, 2, "leaves the tensor"},
    {"run over the end", kR, {5, 5}, 1, 6, 10, 0, "leaves the tensor"},
    {"runs shorter than nnz", kR, {0, 1, 1, 0}, 2, 4, 10, 0, "3 entries together"},
    {"runs longer than nnz", kR, {0, 1, 1, 2}, 2, 4, 10, 0, "5 entries together"},
    {"length missing", kR, {0, 1, 1, 0x80}, 2, 4, 10, 4, "ends after 1 of 2"},
    {"gap missing", kR, {0, 0x80, 1}, 2, 4, 1000, 3, "ends after 1 of 2"},
    {"stream too long", kR, {0, 1, 1}, 1, 2, 10, 2, "has 1 bytes behind"},
    {"zero in two bytes", kR, {0x80, 0x00, 1}, 1, 2, 10, 0, "shortest form"},
    {"127 in two bytes", kR, {0, 0xFF, 0x00}, 1, 128, 1000, 1, "shortest form"},
    {"2^32", kR, {0x80, 0x80, 0x80, 0x80, 0x10, 0}, 1, 1, kMaxElements, 0, "does not fit 32 bits"},
    {"six bytes",
     kR,
     {0x80, 0x80, 0x80, 0x80, 0x80, 0x01, 0},
     1,
     1,
     kMaxElements,
     0,
     "more than 5 bytes"},
    {"run of 2^32 entries",
     kR,
     {0, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F},
     1,
     kMaxElements,
     kMaxElements,
     0,
     "leaves"},
    {"block behind the end", kB8, {0, 2}, 2, 8, 15, 1, "leaves the tensor", 4},
    {"block over the end", kB8, {3}, 1, 4, 15, 0, "leaves the tensor", 4},
    {"block longer than the tensor", kB8, {0}, 1, 16, 15, 0, "leaves the tensor", 16},
    {"stream too long", kB8, {0, 0}, 1, 4, 15, 1, "has 1 bytes behind", 4},
    {"stream too short", kB16, {0, 0}, 2, 8, 15, 2, "ends after 1 of 2", 4},
    {"block behind the end", kB16, {0, 0, 2, 0}, 2, 8, 15, 2, "leaves the tensor", 4},
};

TEST(IndexCodec, RefusesMalformedStreamsAtTheRightByte) {
  for (const Malformed& bad : kMalformed) {
    SCOPED_TRACE(std::string(index_codec_name(bad.codec)) + ": " + bad.what);
    const auto list = decode(bad.codec, {bad.stream, bad.unit_count}, bad.entry_count,
                             bad.element_count, bad.block_length);
    ASSERT_FALSE(list.ok());
    EXPECT_EQ(list.error().status, Status::BAD_INDEX);
    EXPECT_EQ(list.error().offset_bytes, bad.offset);
    EXPECT_NE(list.error().message.find(bad.message), std::string::npos) << list.error().message;
  }
}

/// Any bytes at all: either refused, or strictly increasing and inside.
TEST(IndexCodec, ArbitraryStreamsNeverLeaveTheTensor) {
  std::mt19937 random(20261122);
  int accepted_count = 0;
  for (int round = 0; round < 200000; ++round) {
    const auto codec = static_cast<IndexCodec>(1 + random() % 5);
    const uint32_t block_length =
        is_block_codec(codec) ? 2 + static_cast<uint32_t>(random()) % 3 : 0;
    EncodedIndex encoded;
    encoded.stream.resize(1 + random() % 8);
    const uint32_t limit = random() % 2 == 0 ? 4 : 256;
    for (uint8_t& byte : encoded.stream) byte = static_cast<uint8_t>(random() % limit);
    encoded.unit_count = 1 + static_cast<uint32_t>(random()) % 6;
    const uint64_t element_count = 40 + random() % 1000;
    const uint64_t entry_count =
        uint64_t{encoded.unit_count} * (block_length == 0 ? 1 : block_length);
    const auto list = decode(codec, encoded, entry_count, element_count, block_length);
    if (!list.ok()) {
      ASSERT_EQ(list.error().status, Status::BAD_INDEX);
      continue;
    }
    ++accepted_count;
    const std::vector<uint32_t> positions = positions_of(list.value());
    ASSERT_EQ(positions.size(), entry_count);
    ASSERT_LT(positions.back(), element_count);
    for (size_t j = 1; j < positions.size(); ++j) ASSERT_LT(positions[j - 1], positions[j]);
    // One spelling: what is accepted is what the encoder writes.
    ASSERT_EQ(testing::encode_index(codec, positions, block_length).stream, encoded.stream);
  }
  EXPECT_GT(accepted_count, 1000) << "the premise: some streams are good";
}

}  // namespace
}  // namespace shira
