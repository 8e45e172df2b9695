// Checks value streams and unpacks the scaled ones, exactly.
// SPDX-License-Identifier: Apache-2.0
#include "format/value_codec.h"

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>

#include "base/float_bits.h"

namespace shira {
namespace {

constexpr uint64_t kScaleBytes = 2;  // f16

uint64_t scale_count(uint64_t entry_count, uint32_t group) {
  return (entry_count + group - 1) / group;
}

uint64_t scales_bytes(const ValueStream& stream) {
  return is_scaled(stream.codec) ? kScaleBytes * scale_count(stream.entry_count, stream.group) : 0;
}

/// Number of the first of `count` elements for which flag(bits) has the top bit set, or `count`.
template <typename Bits, typename Flag>
uint64_t find_flagged(const uint8_t* elements, uint64_t count, Flag flag) {
  constexpr Bits kTopBit = static_cast<Bits>(Bits{1} << (8 * sizeof(Bits) - 1));
  const auto bits_at = [elements](uint64_t i) {
    Bits bits;
    __builtin_memcpy(&bits, elements + i * sizeof(Bits), sizeof(Bits));
    return bits;
  };
  constexpr uint64_t kPiece = 4096;  // without a branch per element: the speed of memory
  for (uint64_t begin = 0; begin < count; begin += kPiece) {
    const uint64_t end = std::min(count, begin + kPiece);
    Bits flags = 0;
    for (uint64_t i = begin; i < end; ++i) flags = static_cast<Bits>(flags | flag(bits_at(i)));
    if ((flags & kTopBit) == 0) continue;
    uint64_t i = begin;
    while ((flag(bits_at(i)) & kTopBit) == 0) ++i;
    return i;
  }
  return count;
}

/// Sets the top bit where all exponent bits are set: adding their lowest one carries into it.
template <typename Bits, Bits kExponent>
constexpr Bits flag_non_finite(Bits bits) {
  constexpr Bits kLowestBit = kExponent & static_cast<Bits>(~kExponent + 1U);
  return static_cast<Bits>((bits & kExponent) + kLowestBit);
}

constexpr uint16_t kF16Exponent = 0x7C00;

/// Number of the first NaN or infinity, or entry_count.
uint64_t find_non_finite(const ValueStream& stream) {
  const uint8_t* values = stream.bytes.data();
  const uint64_t count = stream.entry_count;
  switch (stream.codec) {
    case ValueCodec::f32:
      return find_flagged<uint32_t>(values, count, flag_non_finite<uint32_t, 0x7F800000>);
    case ValueCodec::f16:
      return find_flagged<uint16_t>(values, count, flag_non_finite<uint16_t, kF16Exponent>);
    case ValueCodec::bf16:
      return find_flagged<uint16_t>(values, count, flag_non_finite<uint16_t, 0x7F80>);
    default:
      return count;
  }
}

Result<void> check_scales(const ValueStream& stream) {
  const uint64_t count = scale_count(stream.entry_count, stream.group);
  const auto flag = [](uint16_t bits) {  // also negative: the top bit itself
    return static_cast<uint16_t>(bits | flag_non_finite<uint16_t, kF16Exponent>(bits));
  };
  const uint64_t bad = find_flagged<uint16_t>(stream.bytes.data(), count, flag);
  if (bad == count) return {};
  return Error{Status::BAD_VALUE,
               "scale " + std::to_string(bad) + " of " + std::to_string(count) +
                   " is negative, NaN or infinite",
               {},
               {},
               kScaleBytes * bad};
}

/// The value levels[code] for every code of `kBits` bits in one group.
template <unsigned kBits>
void unpack_codes(const uint8_t* codes, uint64_t count, const float* levels, float* out) {
  constexpr unsigned kPerByte = 8 / kBits;
  constexpr unsigned kMask = (1U << kBits) - 1U;
  const uint64_t whole_bytes = count / kPerByte;
  for (uint64_t i = 0; i < whole_bytes; ++i) {
    for (unsigned j = 0; j < kPerByte; ++j) {
      out[kPerByte * i + j] = levels[codes[i] >> (kBits * j) & kMask];
    }
  }
  for (uint64_t i = whole_bytes * kPerByte; i < count; ++i) {
    out[i] = levels[codes[i / kPerByte] >> (kBits * (i % kPerByte)) & kMask];
  }
}

/// One group: at most `group` entries that share `scale`.
void unpack_group(ValueCodec codec, const uint8_t* codes, uint64_t count, float scale, float* out) {
  float levels[16];
  if (codec == ValueCodec::q8) {
    for (uint64_t i = 0; i < count; ++i) {
      out[i] = static_cast<float>(static_cast<int8_t>(codes[i])) * scale;
    }
  } else if (codec == ValueCodec::q4) {
    for (int code = 0; code < 16; ++code) {
      levels[code] = static_cast<float>(code < 8 ? code : code - 16) * scale;
    }
    unpack_codes<4>(codes, count, levels, out);
  } else if (codec == ValueCodec::q2) {
    for (int code = 0; code < 4; ++code) levels[code] = static_cast<float>(2 * code - 3) * scale;
    unpack_codes<2>(codes, count, levels, out);
  } else {
    levels[0] = -scale;
    levels[1] = scale;
    unpack_codes<1>(codes, count, levels, out);
  }
}

}  // namespace

const char* value_codec_name(ValueCodec codec) {
  switch (codec) {
    case ValueCodec::f32:
      return "f32";
    case ValueCodec::f16:
      return "f16";
    case ValueCodec::bf16:
      return "bf16";
    case ValueCodec::i8:
      return "int8";
    case ValueCodec::i4:
      return "int4";
    case ValueCodec::q8:
      return "q8";
    case ValueCodec::q4:
      return "q4";
    case ValueCodec::q2:
      return "q2";
    case ValueCodec::q1:
      return "q1";
  }
  return "unknown";
}

uint32_t value_bits(ValueCodec codec) {
  switch (codec) {
    case ValueCodec::f32:
      return 32;
    case ValueCodec::f16:
    case ValueCodec::bf16:
      return 16;
    case ValueCodec::i8:
    case ValueCodec::q8:
      return 8;
    case ValueCodec::i4:
    case ValueCodec::q4:
      return 4;
    case ValueCodec::q2:
      return 2;
    case ValueCodec::q1:
      return 1;
  }
  return 0;
}

uint64_t value_stream_bytes(ValueCodec codec, uint64_t entry_count, uint32_t group) {
  const uint64_t code_bytes = (entry_count * value_bits(codec) + 7) / 8;
  return code_bytes + (is_scaled(codec) ? kScaleBytes * scale_count(entry_count, group) : 0);
}

Result<void> check_values(const ValueStream& stream) {
  if (is_scaled(stream.codec)) SHIRA_TRY(check_scales(stream));
  const uint64_t bad = find_non_finite(stream);
  if (bad != stream.entry_count) {
    return Error{Status::BAD_VALUE,
                 "value " + std::to_string(bad) + " of " + std::to_string(stream.entry_count) +
                     " is NaN or infinite",
                 {},
                 {},
                 bad * value_bits(stream.codec) / 8};
  }
  const uint64_t used_bits = stream.entry_count * value_bits(stream.codec) % 8;
  const uint64_t last_byte = stream.bytes.size() - 1;
  if (used_bits != 0 && stream.bytes.u8(last_byte) >> used_bits != 0) {
    return Error{Status::RESERVED_NOT_ZERO,
                 "unused bits of the last byte of a value stream are set",
                 {},
                 {},
                 last_byte};
  }
  return {};
}

void unpack_scaled(const ValueStream& stream, float* out) {
  // 2^scale_exponent: a normal float32, as the exponent is in -64 to 64.
  const float unit = float_from_bits(static_cast<uint32_t>(stream.scale_exponent + 127) << 23);
  const uint8_t* codes = stream.bytes.data() + scales_bytes(stream);
  // A group is a multiple of 8 entries, so that its codes begin with a byte.
  const uint64_t group_bytes = uint64_t{stream.group} * value_bits(stream.codec) / 8;
  for (uint64_t begin = 0, number = 0; begin < stream.entry_count;
       begin += stream.group, ++number) {
    const uint64_t count = std::min<uint64_t>(stream.group, stream.entry_count - begin);
    const float scale = widen_f16(stream.bytes.u16(kScaleBytes * number)) * unit;
    unpack_group(stream.codec, codes + number * group_bytes, count, scale, out + begin);
  }
}

void unpack_i4(const ValueStream& stream, int8_t* out) {
  const uint8_t* codes = stream.bytes.data();
  for (uint64_t i = 0; i < stream.entry_count; ++i) {
    const unsigned code = codes[i / 2] >> (4 * (i % 2)) & 0x0FU;
    out[i] = static_cast<int8_t>(static_cast<int>(code ^ 8U) - 8);
  }
}

}  // namespace shira
