// Value codecs: checking value streams and unpacking scaled ones (docs/FORMAT.md section 10).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/array.h"
#include "base/byte_reader.h"
#include "base/dtype.h"
#include "base/result.h"

namespace shira {

/// Numbers are those of docs/FORMAT.md; the first five are those of Dtype.
enum class ValueCodec : uint8_t {
  f32 = 1,
  f16 = 2,
  bf16 = 3,
  i8 = 4,
  i4 = 5,
  q8 = 6,
  q4 = 7,
  q2 = 8,
  q1 = 9
};

constexpr bool is_value_codec(uint8_t number) { return number >= 1 && number <= 9; }
constexpr bool is_scaled(ValueCodec codec) { return codec >= ValueCodec::q8; }
const char* value_codec_name(ValueCodec codec);  // "f32", ..., "int8", "int4", "q8", ..., "q1"
uint32_t value_bits(ValueCodec codec);           // per entry, without scales

/// The values of one row, as they stand in the file.
struct ValueStream {
  ValueCodec codec = ValueCodec::f16;
  ByteReader bytes;
  uint64_t entry_count = 0;
  uint32_t group = 0;         // entries per scale
  int8_t scale_exponent = 0;  // of the scaled codecs
};

/// The size that the stream of `entry_count` entries has. Cannot overflow for entry_count < 2^32.
uint64_t value_stream_bytes(ValueCodec codec, uint64_t entry_count, uint32_t group);

/// Refuses NaN, infinity, bad scales and unused bits that are set: BAD_VALUE or RESERVED_NOT_ZERO
/// with the offset in the stream. REQUIRES: the size is that of value_stream_bytes().
Result<void> check_values(const ValueStream& stream);

/// Writes the entry_count values of a checked scaled stream, exact in float32.
void unpack_scaled(const ValueStream& stream, float* out);

/// Writes the entry_count codes of an i4 stream, one per byte, sign-extended.
void unpack_i4(const ValueStream& stream, int8_t* out);

}  // namespace shira
