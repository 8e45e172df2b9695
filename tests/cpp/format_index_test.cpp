// Index codecs: round trips over boundary gaps, and every way in which a stream can be malformed.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "format/index_codec.h"
#include "index_encoder.h"

namespace shira {
namespace {

using testing::Bytes;
using testing::EncodedIndex;
using testing::index_stream;
using testing::NaiveDecoder;
using testing::NaiveIndex;
using testing::positions_of;

constexpr uint64_t kMaxElements = 4294967295;

/// A codec with its parameter.
struct Coding {
  IndexCodec codec;
  unsigned rice_bits = 0;
};

const Coding kCodings[] = {{IndexCodec::gaps8},    {IndexCodec::gaps16},   {IndexCodec::rice, 0},
                           {IndexCodec::rice, 1},  {IndexCodec::rice, 6},  {IndexCodec::rice, 8},
                           {IndexCodec::rice, 11}, {IndexCodec::rice, 31}, {IndexCodec::runs}};

std::string name_of(const Coding& coding) {
  return index_codec_name(coding.codec) +
         (coding.codec == IndexCodec::rice ? std::to_string(coding.rice_bits) : std::string());
}

/// Decodes a copy whose last byte is the last of its allocation, for the address sanitizer's sake.
/// A stream that cannot hold its units is refused before, as a reader of the table would.
Result<IndexList> decode(IndexStream stream) {
  const size_t size_bytes = stream.bytes.size();
  if (size_bytes < least_index_bytes(stream)) return Error{Status::BAD_INDEX, "too few bytes"};
  const std::unique_ptr<uint8_t[]> copy(new uint8_t[size_bytes]);
  std::copy_n(stream.bytes.data(), size_bytes, copy.get());
  stream.bytes = ByteReader(copy.get(), size_bytes);
  return decode_index(stream);
}

/// The decoder and the naive one answer the same: positions, or the byte that is wrong.
::testing::AssertionResult agrees(const IndexStream& stream) {
  if (stream.bytes.size() < least_index_bytes(stream)) return ::testing::AssertionSuccess();
  const NaiveIndex expected = NaiveDecoder(stream).decode();
  const auto list = decode(stream);
  if (!list.ok()) {
    const Error& error = list.error();
    if (error.status == Status::BAD_INDEX && expected.bad_offset == error.offset_bytes) {
      return ::testing::AssertionSuccess();
    }
    return ::testing::AssertionFailure()
           << error.message << " at " << error.offset_bytes << ", expected "
           << (expected.bad_offset ? std::to_string(*expected.bad_offset) : "success");
  }
  if (expected.bad_offset) {
    return ::testing::AssertionFailure()
           << "accepted, expected an error at " << *expected.bad_offset;
  }
  const std::vector<uint32_t> positions = positions_of(list.value());
  if (std::vector<uint64_t>(positions.begin(), positions.end()) != expected.positions) {
    return ::testing::AssertionFailure() << "other positions";
  }
  if (list.value().entry_count != stream.entry_count) {
    return ::testing::AssertionFailure() << "entry_count " << list.value().entry_count;
  }
  const bool entries = stream.entry_count < 2 * stream.unit_count;
  if (list.value().is_runs() == entries || list.value().entries.empty() == entries) {
    return ::testing::AssertionFailure() << "the wrong one of the two lists is filled";
  }
  for (size_t r = 1; r < list.value().runs.size(); ++r) {
    const Run& before = list.value().runs[r - 1];
    if (list.value().runs[r].start <= before.start + before.length) {
      return ::testing::AssertionFailure() << "run " << r << " touches the one before";
    }
  }
  return ::testing::AssertionSuccess();
}

/// Encodes, decodes and compares; also that one byte less, one byte more, one unit less or more and
/// one element less are refused.
void check_round_trip(const Coding& coding, const std::vector<uint32_t>& index,
                      uint64_t element_count, uint32_t block_length = 1) {
  SCOPED_TRACE(name_of(coding) + " of " + std::to_string(index.size()) + " entries from " +
               std::to_string(index.front()) + " in blocks of " + std::to_string(block_length));
  const EncodedIndex encoded =
      testing::encode_index(coding.codec, index, block_length, coding.rice_bits);
  const auto stream_of = [&](const EncodedIndex& any, uint64_t elements) {
    return index_stream(coding.codec, any, index.size(), elements, block_length, coding.rice_bits);
  };
  const auto list = decode(stream_of(encoded, element_count));
  ASSERT_TRUE(list.ok()) << list.error().message;
  EXPECT_EQ(positions_of(list.value()), index);
  EXPECT_TRUE(agrees(stream_of(encoded, element_count)));

  const auto check_refused = [&](const EncodedIndex& bad, uint64_t elements, const char* what) {
    EXPECT_TRUE(agrees(stream_of(bad, elements))) << what;
    EXPECT_FALSE(decode(stream_of(bad, elements)).ok()) << what;
  };
  EncodedIndex bad = encoded;
  bad.stream.pop_back();
  check_refused(bad, element_count, "one byte short");
  bad = encoded;
  bad.stream.push_back(0);
  check_refused(bad, element_count, "one byte long");
  check_refused(encoded, index.back(), "one element less than needed");
  if (coding.codec == IndexCodec::rice) return;  // the low parts would be others
  bad = encoded;
  ++bad.unit_count;
  check_refused(bad, element_count, "one unit short");
  if (encoded.unit_count == 1) return;
  bad.unit_count -= 2;
  check_refused(bad, element_count, "one unit long");
}

/// Rice streams of wide gaps would have as many bits as the gaps are wide.
bool is_practical(const Coding& coding, uint64_t gap) {
  return coding.codec != IndexCodec::rice || gap >> coding.rice_bits < 100000;
}

/// Gaps on both sides of every boundary of the digits.
const std::vector<uint32_t> kGaps = {0,      1,      127,    128,    253,     254,    255,
                                     256,    509,    510,    511,    764,     765,    766,
                                     16383,  16384,  65533,  65534,  65535,   65536,  70000,
                                     131069, 131070, 131071, 196605, 2097151, 2097152};

TEST(IndexCodec, RoundTripsEveryBoundaryGap) {
  for (const Coding& coding : kCodings) {
    std::vector<uint32_t> all;
    uint32_t next = 0;
    for (const uint32_t gap : kGaps) {
      if (!is_practical(coding, gap)) continue;
      check_round_trip(coding, {gap}, uint64_t{gap} + 1);
      check_round_trip(coding, {gap, gap + 1 + gap}, uint64_t{2} * gap + 2);
      all.push_back(next + gap);
      next = all.back() + 1;
    }
    check_round_trip(coding, all, next);
    check_round_trip(coding, all, kMaxElements);
  }
}

TEST(IndexCodec, RoundTripsBlocks) {
  for (const Coding& coding : kCodings) {
    if (coding.codec == IndexCodec::runs) continue;
    for (const uint32_t length : {2U, 3U, 64U, 65535U}) {
      for (const uint32_t gap : {0U, 1U, 254U, 255U, 256U, 510U, 65534U, 65535U}) {
        const uint64_t last_block = gap + 2;
        if ((last_block + 1) * length > kMaxElements || !is_practical(coding, gap)) continue;
        std::vector<uint32_t> index;
        for (const uint32_t block : {gap, gap + 2}) {  // apart: two runs
          for (uint32_t j = 0; j < length; ++j) index.push_back(block * length + j);
        }
        check_round_trip(coding, index, (last_block + 1) * length, length);
        check_round_trip(coding, index, (last_block + 1) * length + length - 1, length);
      }
    }
  }
}

TEST(IndexCodec, TouchingBlocksBecomeOneRun) {
  std::vector<uint32_t> index;
  for (const uint32_t block : {1U, 2U, 3U, 7U}) {
    for (uint32_t j = 0; j < 4; ++j) index.push_back(4 * block + j);
  }
  for (const Coding& coding : kCodings) {
    if (coding.codec == IndexCodec::runs) continue;
    const auto encoded = testing::encode_index(coding.codec, index, 4, coding.rice_bits);
    ASSERT_EQ(encoded.unit_count, 4U);
    const auto list =
        decode(index_stream(coding.codec, encoded, index.size(), 32, 4, coding.rice_bits));
    ASSERT_TRUE(list.ok());
    ASSERT_EQ(list.value().runs.size(), 2U);
    EXPECT_EQ(list.value().runs[0].start, 4U);
    EXPECT_EQ(list.value().runs[0].length, 12U);
    EXPECT_EQ(list.value().runs[1].start, 28U);
    EXPECT_EQ(list.value().runs[1].length, 4U);
  }
}

/// Every subset of a small tensor, in every codec, and with every byte of its stream changed.
TEST(IndexCodec, EverySmallMaskAndEveryChangedByte) {
  constexpr uint64_t kElements = 6;
  for (const Coding& coding : kCodings) {
    SCOPED_TRACE(name_of(coding));
    for (unsigned mask = 1; mask < 1U << kElements; ++mask) {
      std::vector<uint32_t> index;
      for (uint32_t i = 0; i < kElements; ++i) {
        if ((mask >> i & 1) != 0) index.push_back(i);
      }
      EncodedIndex encoded = testing::encode_index(coding.codec, index, 1, coding.rice_bits);
      const auto stream =
          index_stream(coding.codec, encoded, index.size(), kElements, 1, coding.rice_bits);
      ASSERT_TRUE(agrees(stream)) << mask;
      ASSERT_EQ(positions_of(decode(stream).value()), index);
      for (uint8_t& byte : encoded.stream) {
        const uint8_t right = byte;
        for (unsigned value = 0; value < 256; ++value) {
          byte = static_cast<uint8_t>(value);
          ASSERT_TRUE(agrees(stream)) << mask << " value " << value;
        }
        byte = right;
      }
    }
  }
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
    for (const Coding& coding : kCodings) check_round_trip(coding, index, next);
  }
}

/// A fault anywhere in a long stream, where the quick decoders are at work, is found at its byte.
TEST(IndexCodec, LongStreamsWithOneFault) {
  std::mt19937 random(20261123);
  for (const Coding& coding : kCodings) {
    SCOPED_TRACE(name_of(coding));
    for (int round = 0; round < 300; ++round) {
      const uint32_t spread = coding.codec == IndexCodec::rice ? 4U << coding.rice_bits % 12 : 400;
      const uint32_t block_length = coding.codec == IndexCodec::runs || round % 4 != 0 ? 1 : 3;
      std::vector<uint32_t> index;
      uint32_t next_block = 0;
      const size_t unit_count = 1 + random() % 700;
      for (size_t i = 0; i < unit_count; ++i) {
        const uint32_t block = next_block + static_cast<uint32_t>(random()) % spread;
        for (uint32_t j = 0; j < block_length; ++j) index.push_back(block * block_length + j);
        next_block = block + 1;
      }
      EncodedIndex encoded =
          testing::encode_index(coding.codec, index, block_length, coding.rice_bits);
      if (random() % 2 == 0) {
        encoded.stream[random() % encoded.stream.size()] ^=
            static_cast<uint8_t>(1U << random() % 8);
      } else if (random() % 2 == 0) {
        encoded.stream.resize(encoded.stream.size() - random() % 3);
      }
      const uint64_t element_count = uint64_t{next_block} * block_length + random() % 3 - 1;
      ASSERT_TRUE(agrees(index_stream(coding.codec, encoded, index.size(), element_count,
                                      block_length, coding.rice_bits)))
          << "round " << round;
    }
  }
}

/// Streams with more ends of units than there are units, up to the last byte: whoever counts them
/// too late writes behind the list.
TEST(IndexCodec, MoreUnitsInTheStreamThanDeclared) {
  for (const Coding& coding : {Coding{IndexCodec::gaps8}, Coding{IndexCodec::gaps16},
                               Coding{IndexCodec::rice, 0}, Coding{IndexCodec::rice, 3}}) {
    SCOPED_TRACE(name_of(coding));
    for (uint32_t unit_count = 1; unit_count <= 200; ++unit_count) {
      EncodedIndex encoded;
      encoded.unit_count = unit_count;
      if (coding.codec == IndexCodec::rice) {
        encoded.stream.resize((unit_count * coding.rice_bits + 7) / 8);
        encoded.stream.insert(encoded.stream.end(), unit_count / 8 + 40, 0xFF);
      } else {
        encoded.stream.resize(2 * unit_count + 40);
      }
      const auto stream =
          index_stream(coding.codec, encoded, unit_count, kMaxElements, 1, coding.rice_bits);
      ASSERT_TRUE(agrees(stream)) << unit_count;
      ASSERT_FALSE(decode(stream).ok());
    }
  }
}

TEST(IndexCodec, ReachesTheLastElementOfTheLargestTensor) {
  const uint32_t last = static_cast<uint32_t>(kMaxElements - 1);
  for (const Coding& coding : kCodings) {
    if (!is_practical(coding, last)) continue;
    check_round_trip(coding, {0, last}, kMaxElements);
    const auto encoded = testing::encode_index(coding.codec, {0, last}, 1, coding.rice_bits);
    const auto list =
        decode(index_stream(coding.codec, encoded, 2, kMaxElements - 1, 1, coding.rice_bits));
    EXPECT_EQ(list.error().status, Status::BAD_INDEX);
  }
}

/// Gaps that add up to 2^32 and a small position: 32-bit sums would come out inside.
TEST(IndexCodec, PositionsDoNotWrapAround) {
  constexpr uint64_t kGap = uint64_t{1} << 31;
  const auto check = [](const Coding& coding, const Bytes& stream, uint32_t unit_count,
                        uint64_t bad_offset) {
    SCOPED_TRACE(name_of(coding));
    const EncodedIndex encoded{stream, unit_count};
    const auto list =
        decode(index_stream(coding.codec, encoded, unit_count, kMaxElements, 1, coding.rice_bits));
    ASSERT_FALSE(list.ok());
    EXPECT_EQ(list.error().offset_bytes, bad_offset);
  };
  Bytes digits;  // gaps of 2^31, 2^31 and 0 make the positions 2^31, 2^32 + 1 and 2^32 + 2
  testing::append_digits(&digits, kGap, 2);
  const uint64_t second = digits.size();
  testing::append_digits(&digits, kGap, 2);
  testing::append_digits(&digits, 0, 2);
  check({IndexCodec::gaps16}, digits, 3, second);
  for (const unsigned bits : {24U, 31U}) {
    const Bytes stream = testing::encode_rice({kGap, kGap, 0}, bits);
    const uint64_t first_high_bits = (kGap >> bits) + 1;
    check({IndexCodec::rice, bits}, stream, 3, (3 * bits + 7) / 8 + first_high_bits / 8);
  }
  // A quotient whose shift would lose its upper bits: (2^33 >> 31) << 31 is 2^33.
  check({IndexCodec::rice, 31}, testing::encode_rice({uint64_t{1} << 33, 5}, 31), 2, 8);
  Bytes long_quotient(8 + 40, 0);  // two low parts of 0, then 319 zero bits and a one bit
  long_quotient.back() = 0xC0;
  check({IndexCodec::rice, 31}, long_quotient, 2, 8);
}

TEST(IndexCodec, OneRunMayCoverEverything) {
  const EncodedIndex encoded{{0x00, 0xFE, 0xFF, 0xFF, 0xFF, 0x0F}, 1};
  const auto list = decode(index_stream(IndexCodec::runs, encoded, kMaxElements, kMaxElements));
  ASSERT_TRUE(list.ok()) << list.error().message;
  EXPECT_EQ(list.value().runs[0].length, kMaxElements);
}

/// Lists from one pool have the room they asked for, and are what they are by themselves.
TEST(IndexCodec, ListsShareAPool) {
  std::mt19937 random(20261127);
  std::vector<EncodedIndex> encoded;
  std::vector<IndexStream> streams;
  encoded.reserve(40);
  uint64_t pool_bytes = 0;
  for (int i = 0; i < 40; ++i) {
    const Coding& coding = kCodings[static_cast<size_t>(i) % 4];
    const uint32_t block_length = i % 3 == 0 ? 2 : 1;
    std::vector<uint32_t> index;
    uint32_t block = 0;
    for (int unit = 0; unit < 20000; ++unit, ++block) {
      block += static_cast<uint32_t>(random()) % 8;
      for (uint32_t j = 0; j < block_length; ++j) index.push_back(block * block_length + j);
    }
    encoded.push_back(testing::encode_index(coding.codec, index, block_length, coding.rice_bits));
    streams.push_back(index_stream(coding.codec, encoded.back(), index.size(),
                                   uint64_t{block} * block_length, block_length, coding.rice_bits));
    pool_bytes += decoded_index_bytes(streams.back());
  }
  auto pool = ArrayPool::make(pool_bytes);
  ASSERT_TRUE(pool.ok());
  SpentBytes kept;
  std::vector<IndexList> lists;
  for (const IndexStream& stream : streams) {
    auto list = decode_index(stream, &pool.value(), &kept);
    ASSERT_TRUE(list.ok()) << list.error().message;
    lists.push_back(std::move(list.value()));
  }
  const void* first = lists[1].entries.data();
  const void* last = lists[38].entries.data();
  EXPECT_LT(static_cast<const uint8_t*>(last) - static_cast<const uint8_t*>(first),
            static_cast<ptrdiff_t>(pool_bytes))
      << "the premise: there was room for all";
  for (size_t i = 0; i < lists.size(); ++i) {
    ASSERT_EQ(positions_of(lists[i]), positions_of(decode(streams[i]).value())) << i;
  }
}

TEST(IndexCodec, LeastBytes) {
  IndexStream stream;
  stream.unit_count = 0xFFFFFFFF;
  const auto least = [&stream](IndexCodec codec, uint8_t rice_bits = 0) {
    stream.codec = codec;
    stream.rice_bits = rice_bits;
    return least_index_bytes(stream);
  };
  EXPECT_EQ(least(IndexCodec::gaps8), 0xFFFFFFFFU);
  EXPECT_EQ(least(IndexCodec::gaps16), 0x1FFFFFFFEU);
  EXPECT_EQ(least(IndexCodec::runs), 0x1FFFFFFFEU);
  EXPECT_EQ(least(IndexCodec::rice, 0), 0x20000000U);
  EXPECT_EQ(least(IndexCodec::rice, 31), 0x3DFFFFFFDU + 0x20000000U);
  stream.unit_count = 1;
  EXPECT_EQ(least(IndexCodec::rice, 0), 1U);
  EXPECT_EQ(least(IndexCodec::rice, 8), 2U);
  EXPECT_EQ(least(IndexCodec::rice, 9), 3U);
  EXPECT_EQ(least(IndexCodec::structured), 16U);
  EXPECT_EQ(least(IndexCodec::random), 8U);
  EXPECT_EQ(least(IndexCodec::top_magnitude), 0U);
}

TEST(IndexCodec, Names) {
  for (uint8_t number = 0; number < 10; ++number) {
    const bool known = number >= 1 && number <= 7;
    EXPECT_EQ(is_index_codec(number), known);
    EXPECT_EQ(std::string(index_codec_name(static_cast<IndexCodec>(number))) == "unknown", !known);
  }
  EXPECT_FALSE(is_derived(IndexCodec::runs));
  EXPECT_TRUE(is_derived(IndexCodec::structured));
}

struct Malformed {
  const char* what;
  Coding coding;
  Bytes stream;
  uint32_t unit_count;
  uint64_t entry_count;
  uint64_t element_count;
  uint64_t offset;  // of the error
  const char* message;
  uint32_t block_length = 1;
};

const Coding kG8 = {IndexCodec::gaps8};
const Coding kG16 = {IndexCodec::gaps16};
const Coding kR = {IndexCodec::runs};
const Coding kRice0 = {IndexCodec::rice, 0};
const Coding kRice3 = {IndexCodec::rice, 3};

const Malformed kMalformed[] = {
    {"first entry behind the end", kG8, {10}, 1, 1, 10, 0, "leaves the tensor"},
    {"last entry behind the end", kG8, {0, 0, 8}, 3, 3, 10, 2, "leaves the tensor"},
    {"long gap behind the end", kG8, {0, 255, 255, 0}, 2, 2, 511, 1, "leaves the tensor"},
    {"gap without its last digit", kG8, {0, 255}, 2, 2, 1000, 1, "ends after 1 of 2"},
    {"gap without its last digits", kG8, {0, 255, 255}, 2, 2, 1000, 1, "ends after 1 of 2"},
    {"gap missing after a long one", kG8, {255, 0}, 2, 2, 1000, 2, "ends after 1 of 2"},
    {"gap cut short over eight digits",
     kG8,
     {0, 0, 0, 0, 0, 0, 0, 255, 255},
     8,
     8,
     100000,
     7,
     "ends after 7 of 8"},
    {"long gap over eight digits behind the end",
     kG8,
     {0, 0, 0, 0, 0, 0, 255, 255, 9},
     7,
     7,
     520,
     6,
     "leaves the tensor"},
    {"stream too long", kG8, {0, 0, 0, 0}, 3, 3, 10, 3, "has 1 bytes behind"},
    {"half a digit", kG16, {0xFF, 0xFF, 0, 0, 0}, 2, 2, 100000, 4, "ends after 1 of 2"},
    {"half a digit too many", kG16, {0, 0, 0}, 1, 1, 10, 2, "has 1 bytes behind"},
    {"gap without its last digit", kG16, {1, 0, 0xFF, 0xFF}, 2, 2, 1000000, 2, "ends after 1 of 2"},
    {"entry behind the end", kG16, {1, 0, 8, 0}, 2, 2, 10, 2, "leaves the tensor"},
    {"touching runs", kR, {0, 1, 0, 0}, 2, 3, 10, 2, "touches the run before"},
    {"run behind the end", kR, {0, 1, 7, 1}, 2, 4, 10, 2, "leaves the tensor"},
    {"run over the end", kR, {5, 5}, 1, 6, 10, 0, "leaves the tensor"},
    {"runs shorter than nnz", kR, {0, 1, 1, 0}, 2, 4, 10, 0, "3 entries together"},
    {"runs longer than nnz", kR, {0, 1, 1, 2}, 2, 4, 10, 0, "5 entries together"},
    {"length cut short", kR, {0, 1, 1, 0x80}, 2, 4, 10, 2, "cut short"},
    {"length missing", kR, {0x80, 1, 1, 1}, 2, 4, 1000, 3, "cut short"},
    {"gap missing", kR, {0x80, 1, 0x81, 1}, 2, 4, 1000, 4, "ends after 1 of 2"},
    {"stream too long", kR, {0, 1, 1}, 1, 2, 10, 2, "has 1 bytes behind"},
    {"zero in two bytes", kR, {0x80, 0x00, 1}, 1, 2, 10, 0, "shortest form"},
    {"127 in two bytes", kR, {0, 0xFF, 0x00}, 1, 128, 1000, 0, "shortest form"},
    {"second length in two bytes", kR, {0, 0, 1, 0x81, 0}, 2, 3, 1000, 2, "shortest form"},
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
    {"block behind the end", kG8, {0, 2}, 2, 8, 15, 1, "leaves the tensor", 4},
    {"block over the end", kG8, {3}, 1, 4, 15, 0, "leaves the tensor", 4},
    {"block longer than the tensor", kG8, {0}, 1, 16, 15, 0, "leaves the tensor", 16},
    {"stream too long", kG8, {0, 0}, 1, 4, 15, 1, "has 1 bytes behind", 4},
    {"block cut short", kG16, {0, 0, 255, 255}, 2, 8, 1 << 20, 2, "ends after 1 of 2", 4},
    {"block behind the end", kG16, {0, 0, 2, 0}, 2, 8, 15, 2, "leaves the tensor", 4},
    {"high part cut short", kRice0, {0x11, 0x00}, 3, 3, 100, 0, "ends after 2 of 3"},
    {"high part missing", kRice0, {0x80}, 2, 2, 100, 1, "ends after 1 of 2"},
    {"high part begins in the second byte", kRice0, {0x80, 0x00}, 2, 2, 100, 1, "ends after 1"},
    {"bit behind the last unit", kRice0, {0x07}, 2, 2, 100, 0, "bits behind the last unit"},
    {"byte behind the last unit", kRice0, {0x03, 0x00}, 2, 2, 100, 1, "has 1 bytes behind"},
    {"bit, then bytes behind", kRice0, {0x03, 0x01}, 2, 2, 100, 1, "has 1 bytes behind"},
    {"bit before bytes behind", kRice0, {0x13, 0x01}, 2, 2, 100, 0, "bits behind the last unit"},
    {"unit behind the end", kRice0, {0x00, 0x02}, 1, 1, 9, 0, "leaves the tensor"},
    {"unit of the second byte", kRice0, {0x80, 0x04}, 2, 2, 10, 1, "leaves the tensor"},
    {"low bits unused", kRice3, {0x0A, 0x01}, 1, 1, 8, 0, "unused bits behind the low parts"},
    {"low bits, then all else wrong", kRice3, {0x80, 0x00}, 1, 1, 1, 0, "unused bits"},
    {"low part behind the end", kRice3, {0x07, 0x01}, 1, 1, 7, 1, "leaves the tensor"},
    {"second unit behind the end", kRice3, {0x3F, 0x03}, 2, 2, 15, 1, "leaves the tensor"},
    {"block behind the end", kRice3, {0x04, 0x01}, 1, 4, 19, 1, "leaves the tensor", 4},
};

TEST(IndexCodec, RefusesMalformedStreamsAtTheRightByte) {
  for (const Malformed& bad : kMalformed) {
    SCOPED_TRACE(name_of(bad.coding) + ": " + bad.what);
    const EncodedIndex encoded{bad.stream, bad.unit_count};
    const auto stream = index_stream(bad.coding.codec, encoded, bad.entry_count, bad.element_count,
                                     bad.block_length, bad.coding.rice_bits);
    const auto list = decode(stream);
    ASSERT_FALSE(list.ok());
    EXPECT_EQ(list.error().status, Status::BAD_INDEX);
    EXPECT_EQ(list.error().offset_bytes, bad.offset);
    EXPECT_NE(list.error().message.find(bad.message), std::string::npos) << list.error().message;
    EXPECT_TRUE(agrees(stream)) << "the naive decoder's opinion";
  }
}

/// Any bytes at all: either refused, or strictly increasing and inside.
TEST(IndexCodec, ArbitraryStreamsNeverLeaveTheTensor) {
  std::mt19937 random(20261122);
  int accepted_count = 0;
  for (int round = 0; round < 200000; ++round) {
    const Coding coding = {static_cast<IndexCodec>(1 + random() % 4),
                           static_cast<unsigned>(random()) % 5};
    const uint32_t block_length =
        coding.codec == IndexCodec::runs ? 1 : 1 + static_cast<uint32_t>(random()) % 3;
    EncodedIndex encoded;
    encoded.stream.resize(1 + random() % 8);
    const uint32_t limit = random() % 2 == 0 ? 4 : 256;
    for (uint8_t& byte : encoded.stream) byte = static_cast<uint8_t>(random() % limit);
    encoded.unit_count = 1 + static_cast<uint32_t>(random()) % 6;
    const uint64_t element_count = 40 + random() % 1000;
    const auto stream =
        index_stream(coding.codec, encoded, uint64_t{encoded.unit_count} * block_length,
                     element_count, block_length, coding.rice_bits);
    ASSERT_TRUE(agrees(stream)) << "round " << round;
    const auto list = decode(stream);
    if (!list.ok()) continue;
    ++accepted_count;
    const std::vector<uint32_t> positions = positions_of(list.value());
    ASSERT_EQ(positions.size(), stream.entry_count);
    ASSERT_LT(positions.back(), element_count);
    for (size_t j = 1; j < positions.size(); ++j) ASSERT_LT(positions[j - 1], positions[j]);
    // One spelling: what is accepted is what the encoder writes.
    ASSERT_EQ(testing::encode_index(coding.codec, positions, block_length, coding.rice_bits).stream,
              encoded.stream);
  }
  EXPECT_GT(accepted_count, 1000) << "the premise: some streams are good";
}

}  // namespace
}  // namespace shira
