// CRC32C against RFC 3720 on every variant, XXH3-128 against vectors of python-xxhash.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "base/hash.h"

namespace {

using Bytes = std::vector<uint8_t>;

struct CrcVector {
  Bytes bytes;
  uint32_t crc;
};

/// RFC 3720, appendix B.4, and the usual check value.
std::vector<CrcVector> crc_vectors() {
  Bytes ascending(32);
  std::iota(ascending.begin(), ascending.end(), uint8_t{0});
  const Bytes descending(ascending.rbegin(), ascending.rend());
  const Bytes read_command = {0x01, 0xC0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
                              0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x14, 0x00, 0x00, 0x00,
                              0x00, 0x00, 0x04, 0x00, 0x00, 0x00, 0x00, 0x14, 0x00, 0x00,
                              0x00, 0x18, 0x28, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
                              0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00};
  return {{Bytes(32, 0x00), 0x8A9136AAU},
          {Bytes(32, 0xFF), 0x62A8AB43U},
          {ascending, 0x46DD794EU},
          {descending, 0x113FDB5CU},
          {read_command, 0xD9963A56U},
          {{}, 0},
          {{'1', '2', '3', '4', '5', '6', '7', '8', '9'}, 0xE3069283U}};
}

Bytes pattern(size_t size_bytes) {
  Bytes bytes(size_bytes);
  for (size_t i = 0; i < size_bytes; ++i) bytes[i] = static_cast<uint8_t>(i * 7 + i / 256 * 13 + 1);
  return bytes;
}

TEST(Crc32c, EveryVariantKnowsTheRfcVectors) {
  const auto variants = shira::crc32c_variants();
  ASSERT_STREQ(variants.back().name, "table");
  ASSERT_TRUE(variants.back().supported);
  for (const CrcVector& vector : crc_vectors()) {
    EXPECT_EQ(shira::crc32c(vector.bytes.data(), vector.bytes.size()), vector.crc);
    for (const auto& variant : variants) {
      if (!variant.supported) continue;
      EXPECT_EQ(~variant.update(0xFFFFFFFFU, vector.bytes.data(), vector.bytes.size()), vector.crc)
          << variant.name;
    }
  }
}

TEST(Crc32c, VariantsAgreeOnEveryLengthAndStart) {
  const Bytes bytes = pattern(400);
  const auto variants = shira::crc32c_variants();
  for (const auto& variant : variants) {
    if (!variant.supported) continue;
    for (size_t start = 0; start < 9; ++start) {
      for (size_t size = 0; size < 300; ++size) {
        ASSERT_EQ(variant.update(0x12345678U, bytes.data() + start, size),
                  variants.back().update(0x12345678U, bytes.data() + start, size))
            << variant.name << " " << start << " " << size;
      }
    }
  }
}

/// Long enough for every way of going side by side, and for each of its ends.
TEST(Crc32c, VariantsAgreeOnLongRanges) {
  const Bytes bytes = pattern(40000);
  const auto variants = shira::crc32c_variants();
  for (const auto& variant : variants) {
    if (!variant.supported) continue;
    for (const size_t size : {1023, 1024, 3071, 3072, 3073, 3080, 6143, 6144, 9215, 9223, 39997}) {
      for (const uint32_t crc : {0U, 1U, 0x80000000U, 0xFFFFFFFFU, 0x12345678U}) {
        ASSERT_EQ(variant.update(crc, bytes.data() + 3, size),
                  variants.back().update(crc, bytes.data() + 3, size))
            << variant.name << " " << size;
      }
    }
  }
}

TEST(Crc32c, ContinuesWhereItStopped) {
  const Bytes bytes = pattern(100);
  const uint32_t whole = shira::crc32c(bytes.data(), bytes.size());
  for (size_t split = 0; split <= bytes.size(); ++split) {
    const uint32_t first = shira::crc32c(bytes.data(), split);
    EXPECT_EQ(shira::crc32c(bytes.data() + split, bytes.size() - split, first), whole) << split;
  }
}

TEST(Crc32c, PartsCombineToTheWhole) {
  const Bytes bytes = pattern(300000);
  const uint32_t whole = shira::crc32c(bytes.data(), bytes.size());
  for (const size_t split : {0, 1, 2, 3, 255, 4096, 65537, 262144, 299999, 300000}) {
    const uint32_t first = shira::crc32c(bytes.data(), split);
    const uint32_t second = shira::crc32c(bytes.data() + split, bytes.size() - split);
    EXPECT_EQ(shira::crc32c_combine(first, second, bytes.size() - split), whole) << split;
  }
  EXPECT_EQ(shira::crc32c_combine(0, 0, 0), 0U);
}

struct HashVector {
  size_t size_bytes;  // of pattern()
  const char* hex;
};

constexpr HashVector kHashVectors[] = {
    {0, "99aa06d3014798d86001c324468d497f"},    {1, "51025a4491835505e12ef9d2eb86ceeb"},
    {3, "f727126d6288a4bd5c83885a0fb5d516"},    {4, "6a20c426eb2da17d217908f07519e96e"},
    {8, "dd669d5507e0e9404506373ef0af21f8"},    {9, "781bfd0e8d95a9ada51b142882780bcb"},
    {16, "6c53b945f90d679849bf196d35649b79"},   {17, "f889d91b7faf208294ad051aea796d7e"},
    {128, "776e5a2cae08df3bd480e3bdeadbf37f"},  {129, "b550da2f042256556a4dda91524c13ef"},
    {240, "3f558c88fda1da664f23bfd3609734e8"},  {241, "9ea4272027cb71fcbff7215089202d8f"},
    {256, "64c166f4724707e6c03402b5dce3dbfa"},  {1024, "0514a69231f1f60e33ba39360ec01521"},
    {1025, "95d9e0f2aa81ad40a786915585c6bf1b"}, {100000, "e46a671195e0b1cb3b7e6caab8b196c5"},
};

std::string hex(const shira::Hash128& hash) { return shira::to_hex(hash.data(), hash.size()); }

TEST(Hash128, KnowsTheVectors) {
  for (const HashVector& vector : kHashVectors) {
    const Bytes bytes = pattern(vector.size_bytes);
    EXPECT_EQ(hex(shira::hash128(bytes.data(), bytes.size())), vector.hex) << vector.size_bytes;
  }
}

TEST(Hash128, StreamsLikeOneCall) {
  for (const size_t piece : {1, 7, 64, 255, 256, 257, 5000}) {
    const Bytes bytes = pattern(5000);
    shira::Hasher128 hasher;
    for (size_t begin = 0; begin < bytes.size(); begin += piece) {
      hasher.update(bytes.data() + begin, std::min(piece, bytes.size() - begin));
    }
    EXPECT_EQ(hasher.digest(), shira::hash128(bytes.data(), bytes.size())) << piece;
    EXPECT_EQ(hasher.digest(), hasher.digest()) << "asking changes nothing";
  }
}

TEST(Hash128, ACopyGoesItsOwnWay) {
  const Bytes bytes = pattern(600);
  shira::Hasher128 first;
  first.update(bytes.data(), 300);
  shira::Hasher128 second = first;
  first.update(bytes.data() + 300, 300);
  EXPECT_EQ(first.digest(), shira::hash128(bytes.data(), 600));
  EXPECT_EQ(second.digest(), shira::hash128(bytes.data(), 300));
}

TEST(Hash128, NothingIsAValidInput) {
  shira::Hasher128 hasher;
  hasher.update(nullptr, 0);
  EXPECT_EQ(hasher.digest(), shira::hash128(nullptr, 0));
}

TEST(Hex, IsLowerCaseWithLeadingZeros) {
  const uint8_t bytes[] = {0x00, 0x0A, 0xF0, 0xFF};
  EXPECT_EQ(shira::to_hex(bytes, 4), "000af0ff");
  EXPECT_EQ(shira::to_hex(bytes, 0), "");
}

}  // namespace
