// Test helper: writes index streams, and reads them again in the most naive way.
// SPDX-License-Identifier: Apache-2.0
#pragma once

// Written from docs/FORMAT.md section 9, digit by digit and bit by bit. Of csrc/format only the
// enums are used, so that a misunderstanding shared by both would have to be made twice.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "format/index_codec.h"

namespace shira::testing {

using Bytes = std::vector<uint8_t>;

/// Bits in the order of the specification: from the least significant one of the first byte on.
class BitWriter {
 public:
  void put(bool bit) {
    if (bit_count_ % 8 == 0) bytes_.push_back(0);
    if (bit) bytes_.back() = static_cast<uint8_t>(bytes_.back() | 1U << (bit_count_ % 8));
    ++bit_count_;
  }
  const Bytes& bytes() const { return bytes_; }

 private:
  Bytes bytes_;
  uint64_t bit_count_ = 0;
};

inline void append_digits(Bytes* stream, uint64_t gap, uint32_t digit_bytes) {
  const uint64_t more = digit_bytes == 1 ? 255 : 65535;
  for (uint64_t i = 0; i <= gap / more; ++i) {
    const uint64_t digit = i < gap / more ? more : gap % more;
    for (uint32_t k = 0; k < digit_bytes; ++k) {
      stream->push_back(static_cast<uint8_t>(digit >> (8 * k)));
    }
  }
}

inline void append_leb128(Bytes* stream, uint64_t number) {
  for (; number >= 0x80; number >>= 7) stream->push_back(static_cast<uint8_t>(number | 0x80));
  stream->push_back(static_cast<uint8_t>(number));
}

inline Bytes encode_rice(const std::vector<uint64_t>& gaps, unsigned rice_bits) {
  BitWriter low;
  BitWriter high;
  for (const uint64_t gap : gaps) {
    for (unsigned bit = 0; bit < rice_bits; ++bit) low.put((gap >> bit & 1) != 0);
    for (uint64_t i = 0; i < gap >> rice_bits; ++i) high.put(false);
    high.put(true);
  }
  Bytes stream = low.bytes();
  stream.insert(stream.end(), high.bytes().begin(), high.bytes().end());
  return stream;
}

struct EncodedIndex {
  Bytes stream;
  uint32_t unit_count = 0;
};

/// The stream of a codec that is not derived. `index` must suit it: whole blocks of `block_length`
/// (GAPS8, GAPS16, RICE; any for RUNS).
inline EncodedIndex encode_index(IndexCodec codec, const std::vector<uint32_t>& index,
                                 uint32_t block_length = 1, unsigned rice_bits = 0) {
  EncodedIndex encoded;
  if (codec == IndexCodec::runs) {
    uint64_t end = 0;  // of the run before
    for (size_t i = 0; i < index.size();) {
      size_t length = 1;
      while (i + length < index.size() && index[i + length] == index[i] + length) ++length;
      append_leb128(&encoded.stream, index[i] - end);
      append_leb128(&encoded.stream, length - 1);
      end = uint64_t{index[i]} + length;
      i += length;
      ++encoded.unit_count;
    }
    return encoded;
  }
  std::vector<uint64_t> gaps;
  uint64_t next_block = 0;
  for (size_t i = 0; i < index.size(); i += block_length) {
    gaps.push_back(index[i] / block_length - next_block);
    next_block = uint64_t{index[i] / block_length} + 1;
  }
  encoded.unit_count = static_cast<uint32_t>(gaps.size());
  if (codec == IndexCodec::rice) {
    encoded.stream = encode_rice(gaps, rice_bits);
    return encoded;
  }
  for (const uint64_t gap : gaps) {
    append_digits(&encoded.stream, gap, codec == IndexCodec::gaps8 ? 1 : 2);
  }
  return encoded;
}

/// 16 bytes of a STRUCT stream.
inline Bytes encode_structured(uint8_t parts, uint32_t columns, uint32_t period, uint32_t phase) {
  Bytes stream = {parts, 0, 0, 0};
  for (const uint32_t field : {columns, period, phase}) {
    for (int byte = 0; byte < 4; ++byte) stream.push_back(static_cast<uint8_t>(field >> 8 * byte));
  }
  return stream;
}

/// 8 bytes of a RANDOM stream.
inline Bytes encode_seed(uint64_t seed) {
  Bytes stream;
  for (int byte = 0; byte < 8; ++byte) stream.push_back(static_cast<uint8_t>(seed >> 8 * byte));
  return stream;
}

inline IndexStream index_stream(IndexCodec codec, const EncodedIndex& encoded, uint64_t entry_count,
                                uint64_t element_count, uint32_t block_length = 1,
                                unsigned rice_bits = 0) {
  IndexStream stream;
  stream.codec = codec;
  stream.bytes = ByteReader(encoded.stream.data(), encoded.stream.size());
  stream.rice_bits = static_cast<uint8_t>(rice_bits);
  stream.block_length = codec == IndexCodec::runs ? 0 : block_length;
  stream.unit_count = encoded.unit_count;
  stream.entry_count = entry_count;
  stream.element_count = element_count;
  return stream;
}

/// Positions of a list, whatever its form.
inline std::vector<uint32_t> positions_of(const IndexList& list) {
  std::vector<uint32_t> positions(list.entries.data(), list.entries.data() + list.entries.size());
  for (size_t r = 0; r < list.runs.size(); ++r) {
    for (uint32_t j = 0; j < list.runs[r].length; ++j) positions.push_back(list.runs[r].start + j);
  }
  return positions;
}

/// What a decoder must answer: positions, or where the stream is wrong.
struct NaiveIndex {
  std::vector<uint64_t> positions;
  std::optional<uint64_t> bad_offset;
};

/// The reference decoder, for small streams.
class NaiveDecoder {
 public:
  explicit NaiveDecoder(const IndexStream& stream) : stream_(stream) {}

  NaiveIndex decode() {
    if (stream_.codec == IndexCodec::rice) {
      decode_rice();
    } else if (stream_.codec == IndexCodec::runs) {
      decode_runs();
    } else {
      decode_gaps();
    }
    if (result_.bad_offset) result_.positions.clear();
    return result_;
  }

 private:
  void decode_gaps() {
    const uint64_t width = stream_.codec == IndexCodec::gaps8 ? 1 : 2;
    const uint64_t more = width == 1 ? 255 : 65535;
    uint64_t at = 0;
    for (uint64_t unit = 0; unit < stream_.unit_count; ++unit) {
      const uint64_t begin = at;
      uint64_t gap = 0;
      for (uint64_t digit = more; digit == more; at += width, gap += digit) {
        if (at + width > stream_.bytes.size()) return fail(begin);
        digit = byte(at);
        if (width == 2) digit += 256 * byte(at + 1);
      }
      if (!take_block(gap)) return fail(begin);
    }
    if (at < stream_.bytes.size()) fail(at);
  }

  void decode_rice() {
    const uint64_t bit_count = 8 * stream_.bytes.size();
    const uint64_t low_bits = stream_.unit_count * stream_.rice_bits;
    const uint64_t high_begin = (low_bits + 7) / 8 * 8;
    for (uint64_t i = low_bits; i < high_begin; ++i) {
      if (bit(i)) return fail(i / 8);
    }
    uint64_t at = high_begin;
    for (uint64_t unit = 0; unit < stream_.unit_count; ++unit) {
      const uint64_t begin = at;
      while (at < bit_count && !bit(at)) ++at;
      if (at == bit_count) return fail(begin / 8);
      uint64_t gap = (at - begin) << stream_.rice_bits;
      for (unsigned i = 0; i < stream_.rice_bits; ++i) {
        gap += uint64_t{bit(unit * stream_.rice_bits + i)} << i;
      }
      ++at;
      if (!take_block(gap)) return fail(begin / 8);
    }
    for (; at % 8 != 0; ++at) {
      if (bit(at)) return fail(at / 8);
    }
    if (at < bit_count) fail(at / 8);
  }

  void decode_runs() {
    uint64_t at = 0;
    uint64_t end = 0;
    for (uint64_t unit = 0; unit < stream_.unit_count; ++unit) {
      const uint64_t begin = at;
      uint64_t gap = 0;
      uint64_t length = 0;
      if (!read_leb128(&at, &gap) || !read_leb128(&at, &length)) return fail(begin);
      ++length;
      if (gap == 0 && unit > 0) return fail(begin);
      if (end + gap + length > stream_.element_count) return fail(begin);
      for (uint64_t i = 0; i < length; ++i) result_.positions.push_back(end + gap + i);
      end += gap + length;
    }
    if (at < stream_.bytes.size()) return fail(at);
    if (result_.positions.size() != stream_.entry_count) fail(0);
  }

  bool read_leb128(uint64_t* at, uint64_t* number) {
    for (int i = 0; i < 5; ++i) {
      if (*at >= stream_.bytes.size()) return false;
      const uint64_t next = byte((*at)++);
      *number |= (next & 127) << (7 * i);
      if (next < 128) return (next > 0 || i == 0) && *number < uint64_t{1} << 32;
    }
    return false;
  }

  bool take_block(uint64_t gap) {
    const uint64_t block = next_block_ + gap;
    const uint64_t length = stream_.block_length;
    if (block >= stream_.element_count / length) return false;
    for (uint64_t i = 0; i < length; ++i) result_.positions.push_back(block * length + i);
    next_block_ = block + 1;
    return true;
  }

  uint64_t byte(uint64_t offset) const { return stream_.bytes.data()[offset]; }
  bool bit(uint64_t number) const { return (byte(number / 8) >> (number % 8) & 1) != 0; }
  void fail(uint64_t offset) { result_.bad_offset = offset; }

  IndexStream stream_;
  NaiveIndex result_;
  uint64_t next_block_ = 0;
};

}  // namespace shira::testing
