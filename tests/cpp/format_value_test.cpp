// Value codecs: sizes, what is refused and where, and exact unpacking against a bitwise reference.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/float_bits.h"
#include "format/value_codec.h"

namespace shira {
namespace {

using Bytes = std::vector<uint8_t>;

const ValueCodec kScaled[] = {ValueCodec::q8, ValueCodec::q4, ValueCodec::q2, ValueCodec::q1};
const ValueCodec kPlain[] = {ValueCodec::f32, ValueCodec::f16, ValueCodec::bf16, ValueCodec::i8,
                             ValueCodec::i4};

/// A stream that owns an exact copy of its bytes, for the address sanitizer's sake.
struct OwnedStream {
  OwnedStream(ValueCodec codec, const Bytes& bytes, uint64_t entry_count, uint32_t group = 0,
              int scale_exponent = 0)
      : copy(new uint8_t[bytes.size()]) {
    std::copy(bytes.begin(), bytes.end(), copy.get());
    stream.codec = codec;
    stream.bytes = ByteReader(copy.get(), bytes.size());
    stream.entry_count = entry_count;
    stream.group = group;
    stream.scale_exponent = static_cast<int8_t>(scale_exponent);
    EXPECT_EQ(bytes.size(), value_stream_bytes(codec, entry_count, group)) << "the premise";
  }
  std::unique_ptr<uint8_t[]> copy;
  ValueStream stream;
};

Error check(ValueCodec codec, const Bytes& bytes, uint64_t entry_count, uint32_t group = 0) {
  const auto result = check_values(OwnedStream(codec, bytes, entry_count, group).stream);
  return result.ok() ? Error{} : result.error();
}

/// Code number `i` of a stream of codes of `bits` bits.
unsigned code_at(const Bytes& bytes, uint64_t codes_begin, unsigned bits, uint64_t i) {
  unsigned code = 0;
  for (unsigned b = 0; b < bits; ++b) {
    const uint64_t bit = i * bits + b;
    code |= static_cast<unsigned>(bytes[codes_begin + bit / 8] >> (bit % 8) & 1) << b;
  }
  return code;
}

int level_of(ValueCodec codec, unsigned code) {
  switch (codec) {
    case ValueCodec::q8:
      return code < 128 ? static_cast<int>(code) : static_cast<int>(code) - 256;
    case ValueCodec::q4:
      return code < 8 ? static_cast<int>(code) : static_cast<int>(code) - 16;
    case ValueCodec::q2:
      return 2 * static_cast<int>(code) - 3;
    default:
      return 2 * static_cast<int>(code) - 1;
  }
}

TEST(ValueCodec, Sizes) {
  EXPECT_EQ(value_stream_bytes(ValueCodec::f32, 3, 0), 12U);
  EXPECT_EQ(value_stream_bytes(ValueCodec::f16, 3, 0), 6U);
  EXPECT_EQ(value_stream_bytes(ValueCodec::bf16, 3, 0), 6U);
  EXPECT_EQ(value_stream_bytes(ValueCodec::i8, 3, 0), 3U);
  EXPECT_EQ(value_stream_bytes(ValueCodec::i4, 3, 0), 2U);
  EXPECT_EQ(value_stream_bytes(ValueCodec::i4, 4, 0), 2U);
  EXPECT_EQ(value_stream_bytes(ValueCodec::q8, 64, 64), 66U);
  EXPECT_EQ(value_stream_bytes(ValueCodec::q8, 65, 64), 69U);
  EXPECT_EQ(value_stream_bytes(ValueCodec::q4, 129, 64), 6U + 65);
  EXPECT_EQ(value_stream_bytes(ValueCodec::q2, 129, 128), 4U + 33);
  EXPECT_EQ(value_stream_bytes(ValueCodec::q1, 1, 64), 3U);
  EXPECT_EQ(value_stream_bytes(ValueCodec::q1, 17, 4294967288U), 2U + 3);
  const uint64_t most = 4294967295;
  EXPECT_EQ(value_stream_bytes(ValueCodec::f32, most, 0), 4 * most);
  EXPECT_EQ(value_stream_bytes(ValueCodec::q8, most, 64), most + 2 * 67108864);
}

TEST(ValueCodec, Names) {
  for (uint8_t number = 0; number < 12; ++number) {
    const bool known = number >= 1 && number <= 9;
    EXPECT_EQ(is_value_codec(number), known);
    const auto codec = static_cast<ValueCodec>(number);
    EXPECT_EQ(std::string(value_codec_name(codec)) == "unknown", !known);
    EXPECT_EQ(value_bits(codec) == 0, !known);
  }
  for (const ValueCodec codec : kScaled) EXPECT_TRUE(is_scaled(codec));
  for (const ValueCodec codec : kPlain) EXPECT_FALSE(is_scaled(codec));
}

struct Float {
  ValueCodec codec;
  uint32_t infinity;
  uint32_t largest;
};

const Float kFloats[] = {{ValueCodec::f32, 0x7F800000U, 0x7F7FFFFFU},
                         {ValueCodec::f16, 0x7C00U, 0x7BFFU},
                         {ValueCodec::bf16, 0x7F80U, 0x7F7FU}};

TEST(ValueCodec, RefusesNanAndInfinityWhereverTheyStand) {
  for (const Float& format : kFloats) {
    const size_t width = value_bits(format.codec) / 8;
    const uint32_t sign = 1U << (8 * width - 1);
    for (const size_t count : {1U, 2U, 7U, 64U, 5000U}) {
      Bytes bytes(count * width);
      const auto put = [&](size_t i, uint32_t bits) {
        std::memcpy(&bytes[i * width], &bits, width);  // little-endian host
      };
      for (size_t i = 0; i < count; ++i) put(i, i % 2 == 0 ? format.largest : sign | 1U);
      ASSERT_TRUE(check(format.codec, bytes, count).ok()) << "-0.0, subnormals, the largest";
      for (const size_t at : {size_t{0}, count / 2, count - 1}) {
        for (const uint32_t bad :
             {format.infinity, sign | format.infinity, format.infinity | 1U, sign - 1U}) {
          const Bytes before = bytes;
          put(at, bad);
          put(count - 1, bad);
          const Error error = check(format.codec, bytes, count);
          EXPECT_EQ(error.status, Status::BAD_VALUE);
          EXPECT_EQ(error.offset_bytes, at * width);
          bytes = before;
        }
      }
    }
  }
}

TEST(ValueCodec, EveryHalfIsJudgedRight) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const Bytes bytes = {static_cast<uint8_t>(bits), static_cast<uint8_t>(bits >> 8)};
    const bool finite_f16 = std::isfinite(widen_f16(static_cast<uint16_t>(bits)));
    const bool finite_bf16 = std::isfinite(widen_bf16(static_cast<uint16_t>(bits)));
    ASSERT_EQ(check(ValueCodec::f16, bytes, 1).ok(), finite_f16) << bits;
    ASSERT_EQ(check(ValueCodec::bf16, bytes, 1).ok(), finite_bf16) << bits;
    // As a scale: the sign bit must be clear, too.
    const Bytes scaled = {bytes[0], bytes[1], 0};
    const Error error = check(ValueCodec::q8, scaled, 1, 64);
    ASSERT_EQ(error.ok(), finite_f16 && bits < 0x8000) << bits;
    ASSERT_EQ(error.status, error.ok() ? Status::OK : Status::BAD_VALUE);
  }
}

TEST(ValueCodec, EveryIntegerCodeIsAllowed) {
  Bytes bytes(256);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i);
  EXPECT_TRUE(check(ValueCodec::i8, bytes, 256).ok());
  EXPECT_TRUE(check(ValueCodec::i4, bytes, 512).ok());
}

TEST(ValueCodec, ABadScaleIsReportedAtItsFirstByte) {
  for (const ValueCodec codec : kScaled) {
    const uint64_t count = 64 * 9 + 1;
    Bytes bytes(value_stream_bytes(codec, count, 64));
    ASSERT_TRUE(check(codec, bytes, count, 64).ok()) << "the premise";
    bytes.back() = codec == ValueCodec::q8 ? 0 : 0x80;  // an unused bit, which comes later
    for (const size_t at : {9U, 5U, 0U}) {
      bytes[2 * at + 1] = 0x80;  // -0.0
      const Error error = check(codec, bytes, count, 64);
      EXPECT_EQ(error.status, Status::BAD_VALUE);
      EXPECT_EQ(error.offset_bytes, 2 * at);
    }
  }
}

TEST(ValueCodec, UnusedBitsAreZero) {
  for (const ValueCodec codec : {ValueCodec::i4, ValueCodec::q4, ValueCodec::q2, ValueCodec::q1}) {
    const uint32_t group = is_scaled(codec) ? 64 : 0;
    const unsigned bits = value_bits(codec);
    for (uint64_t count = 1; count <= 9; ++count) {
      const uint64_t scales_bytes = is_scaled(codec) ? 2 : 0;
      Bytes bytes(value_stream_bytes(codec, count, group));
      for (unsigned bit = 0; bit < 8; ++bit) {
        bytes.back() = static_cast<uint8_t>(1U << bit);
        const bool used = (bytes.size() - 1 - scales_bytes) * 8 + bit < count * bits;
        const Error error = check(codec, bytes, count, group);
        EXPECT_EQ(error.status, used ? Status::OK : Status::RESERVED_NOT_ZERO);
        EXPECT_EQ(error.offset_bytes, used ? kNoOffset : bytes.size() - 1);
      }
    }
  }
}

/// Every codec, count and group; the expectation is computed in float64 from single bits.
TEST(ValueCodec, UnpacksScaledValuesExactly) {
  std::mt19937 random(20261126);
  for (const ValueCodec codec : kScaled) {
    for (const uint32_t group : {64U, 72U, 256U, 4294967288U}) {
      for (const uint64_t count : {1U, 7U, 8U, 63U, 64U, 65U, 127U, 129U, 300U, 1000U}) {
        for (const int exponent : {0, -64, 64, -1, 3}) {
          Bytes bytes(value_stream_bytes(codec, count, group));
          for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
          const uint64_t codes_begin = 2 * ((count + group - 1) / group);
          for (uint64_t i = 0; i < codes_begin; i += 2) {
            const uint16_t scales[] = {0x0000, 0x0001, 0x03FF, 0x0400, 0x3C00, 0x7BFF};
            const auto drawn = static_cast<uint16_t>(random() % 0x7C00);
            const uint16_t scale = random() % 2 == 0 ? scales[random() % 6] : drawn;
            std::memcpy(&bytes[i], &scale, 2);
          }
          const OwnedStream owned(codec, bytes, count, group, exponent);
          std::vector<float> values(count + 1, -77.0F);
          unpack_scaled(owned.stream, values.data());
          EXPECT_EQ(values[count], -77.0F) << "one value too many";
          for (uint64_t i = 0; i < count; ++i) {
            uint16_t scale = 0;
            std::memcpy(&scale, &bytes[i / group * 2], 2);
            const int level = level_of(codec, code_at(bytes, codes_begin, value_bits(codec), i));
            const double expected = std::ldexp(level * double{widen_f16(scale)}, exponent);
            ASSERT_EQ(double{values[i]}, expected) << i;
            ASSERT_EQ(std::signbit(values[i]), level < 0) << "also of zeros";
          }
        }
      }
    }
  }
}

TEST(ValueCodec, UnpacksI4) {
  for (uint64_t count = 1; count < 40; ++count) {
    Bytes bytes((count + 1) / 2);
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i * 37 + 200);
    if (count % 2 != 0) bytes.back() &= 0x0F;
    const OwnedStream owned(ValueCodec::i4, bytes, count);
    std::vector<int8_t> codes(count + 1, 99);
    unpack_i4(owned.stream, codes.data());
    EXPECT_EQ(codes[count], 99);
    for (uint64_t i = 0; i < count; ++i) {
      EXPECT_EQ(codes[i], level_of(ValueCodec::q4, code_at(bytes, 0, 4, i)));
    }
  }
}

}  // namespace
}  // namespace shira
