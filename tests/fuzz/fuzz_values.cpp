// Fuzz target: value streams of every codec, compared bit by bit with what the specification says.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/byte_reader.h"
#include "check.h"
#include "format/value_codec.h"

namespace shira::fuzz {
namespace {

constexpr size_t kParameterBytes = 6;

/// The most naive reader: one bit at a time, in double precision, which holds every value exactly.
class NaiveValues {
 public:
  explicit NaiveValues(const ValueStream& stream)
      : stream_(stream),
        bits_(value_bits(stream.codec)),
        scale_bytes_(is_scaled(stream.codec)
                         ? 2 * ((stream.entry_count + stream.group - 1) / stream.group)
                         : 0) {}

  uint64_t code(uint64_t entry) const {
    uint64_t result = 0;
    for (uint64_t bit = 0; bit < bits_; ++bit) {
      const uint64_t place = entry * bits_ + bit;
      const uint64_t byte = stream_.bytes.u8(scale_bytes_ + place / 8);
      result |= (byte >> (place % 8) & 1U) << bit;
    }
    return result;
  }

  double value(uint64_t entry) const {
    const auto number = static_cast<int64_t>(code(entry));
    const auto level = [&]() -> int64_t {
      if (stream_.codec == ValueCodec::q2) return 2 * number - 3;
      if (stream_.codec == ValueCodec::q1) return 2 * number - 1;
      const int64_t half = int64_t{1} << (bits_ - 1);
      return number >= half ? number - 2 * half : number;
    }();
    if (!is_scaled(stream_.codec)) return static_cast<double>(level);  // an integer code
    const double scale = half_precision(stream_.bytes.u16(2 * (entry / stream_.group)));
    return std::ldexp(static_cast<double>(level) * scale, stream_.scale_exponent);
  }

  /// The size of the stream, or the offset of the first byte that is refused, with its status.
  Status status(uint64_t* offset_bytes) const {
    for (*offset_bytes = 0; *offset_bytes < scale_bytes_; *offset_bytes += 2) {
      const uint16_t scale = stream_.bytes.u16(*offset_bytes);
      if ((scale >> 15) != 0 || is_special(scale, 10, 5)) return Status::BAD_VALUE;
    }
    for (uint64_t i = 0; i < stream_.entry_count; ++i) {
      *offset_bytes = i * bits_ / 8;
      if (stream_.codec == ValueCodec::f32 && is_special(code(i), 23, 8)) return Status::BAD_VALUE;
      if (stream_.codec == ValueCodec::f16 && is_special(code(i), 10, 5)) return Status::BAD_VALUE;
      if (stream_.codec == ValueCodec::bf16 && is_special(code(i), 7, 8)) return Status::BAD_VALUE;
    }
    *offset_bytes = stream_.bytes.size() - 1;
    const uint64_t used = stream_.entry_count * bits_ % 8;
    for (uint64_t bit = used; used != 0 && bit < 8; ++bit) {
      if ((stream_.bytes.u8(*offset_bytes) >> bit & 1U) != 0) return Status::RESERVED_NOT_ZERO;
    }
    return Status::OK;
  }

 private:
  /// NaN or infinity: all bits of the exponent are set.
  static bool is_special(uint64_t number, unsigned mantissa_bits, unsigned exponent_bits) {
    const uint64_t all = (uint64_t{1} << exponent_bits) - 1;
    return (number >> mantissa_bits & all) == all;
  }

  static double half_precision(uint16_t number) {
    const int exponent = number >> 10 & 31;
    const int mantissa = number & 1023;
    return exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  }

  const ValueStream& stream_;
  uint64_t bits_;
  uint64_t scale_bytes_;
};

void check_unpacked(const ValueStream& stream, const NaiveValues& naive) {
  if (is_scaled(stream.codec)) {
    std::vector<float> values(stream.entry_count);
    unpack_scaled(stream, values.data());
    for (uint64_t i = 0; i < stream.entry_count; ++i) {
      FUZZ_CHECK(static_cast<double>(values[i]) == naive.value(i));
    }
  } else if (stream.codec == ValueCodec::i4) {
    std::vector<int8_t> codes(stream.entry_count);
    unpack_i4(stream, codes.data());
    for (uint64_t i = 0; i < stream.entry_count; ++i) FUZZ_CHECK(codes[i] == naive.value(i));
  }
}

void check(const ByteReader& input) {
  ValueStream stream;
  stream.codec = static_cast<ValueCodec>(1 + input.u8(0) % 9);
  stream.scale_exponent = static_cast<int8_t>(input.u8(1) % 129 - 64);
  stream.group = 64 + 8 * (input.u8(2) % 16);
  // As many entries as fill the rest, or some fewer: the last byte may be partly used.
  const uint64_t rest_bytes = input.size() - kParameterBytes;
  const uint64_t full = rest_bytes * 8 / value_bits(stream.codec);
  stream.entry_count = 1 + full - std::min<uint64_t>(full, input.u8(3) % 8);
  std::vector<uint8_t> bytes(value_stream_bytes(stream.codec, stream.entry_count, stream.group));
  std::memcpy(bytes.data(), input.data() + kParameterBytes,
              std::min<uint64_t>(bytes.size(), rest_bytes));
  stream.bytes = ByteReader(bytes.data(), bytes.size());

  const NaiveValues naive(stream);
  uint64_t offset_bytes = 0;
  const Status expected = naive.status(&offset_bytes);
  const Result<void> result = check_values(stream);
  FUZZ_CHECK(result.error().status == expected);
  FUZZ_CHECK(result.ok() || result.error().offset_bytes == offset_bytes);
  if (result.ok()) check_unpacked(stream, naive);
}

}  // namespace
}  // namespace shira::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size_bytes) {
  if (size_bytes > shira::fuzz::kParameterBytes) {
    shira::fuzz::check(shira::ByteReader(data, size_bytes));
  }
  return 0;
}
