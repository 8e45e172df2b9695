// Decoders of the index streams. Every position is compared with the tensor before it is kept.
// SPDX-License-Identifier: Apache-2.0
#include "format/index_codec.h"

#include <string>
#include <utility>

#include "format/run_merger.h"

namespace shira {
namespace {

Error bad_index(uint64_t offset, std::string message) {
  return Error{Status::BAD_INDEX, std::move(message), {}, {}, offset};
}

Error cut_short(uint64_t offset, const IndexStream& stream, uint64_t unit) {
  return bad_index(offset, "the index stream ends after " + std::to_string(unit) + " of " +
                               std::to_string(stream.unit_count) + " units");
}

Error too_long(uint64_t offset, const IndexStream& stream) {
  return bad_index(offset, "the index stream has " + std::to_string(stream.bytes.size() - offset) +
                               " bytes behind its last unit");
}

Error outside(uint64_t offset, const IndexStream& stream, uint64_t unit) {
  return bad_index(offset, "unit " + std::to_string(unit) +
                               " of the index stream leaves the tensor of " +
                               std::to_string(stream.element_count) + " elements");
}

/// Whole blocks in the tensor: the last, shorter piece cannot be addressed.
uint64_t block_limit(const IndexStream& stream) {
  return stream.element_count / stream.block_length;
}

/// Reads gaps written in `Digit`s and calls keep(block) for the strictly increasing blocks, all
/// below the tensor's block count.
template <typename Digit, typename Keep>
Result<void> walk_gaps(const IndexStream& stream, Keep keep) {
  constexpr Digit kMore = static_cast<Digit>(~Digit{0});  // M of FORMAT.md: another digit follows
  const ByteReader& bytes = stream.bytes;
  const uint64_t limit = block_limit(stream);
  uint64_t offset = 0;
  uint64_t next_block = 0;  // the one a gap of 0 means
  for (uint64_t unit = 0; unit < stream.unit_count; ++unit) {
    const uint64_t unit_offset = offset;
    uint64_t block = next_block;  // cannot overflow: every digit takes a byte of memory
    Digit digit;
    do {
      if (!bytes.read(offset, &digit)) return cut_short(unit_offset, stream, unit);
      offset += sizeof(Digit);
      block += digit;
    } while (digit == kMore);
    if (block >= limit) return outside(unit_offset, stream, unit);
    keep(static_cast<uint32_t>(block));
    next_block = block + 1;
  }
  if (offset != bytes.size()) return too_long(offset, stream);
  return {};
}

uint64_t rice_low_bytes(const IndexStream& stream) {
  return (stream.unit_count * stream.rice_bits + 7) / 8;
}

/// The 64 bits from byte `offset` on, zero behind the end of the stream.
uint64_t load_bits(const ByteReader& bytes, uint64_t offset) {
  uint64_t word = 0;
  if (bytes.read(offset, &word)) return word;
  for (uint64_t i = 0; i < 8 && offset + i < bytes.size(); ++i) {
    word |= uint64_t{bytes.u8(offset + i)} << (8 * i);
  }
  return word;
}

/// Number of the first one bit from `bit` on, or the number of bits.
uint64_t find_one_bit(const ByteReader& bytes, uint64_t bit) {
  const uint64_t bit_count = uint64_t{8} * bytes.size();
  while (bit < bit_count) {
    const uint64_t word = load_bits(bytes, bit / 8) >> (bit % 8);
    if (word != 0) return bit + static_cast<uint64_t>(__builtin_ctzll(word));
    bit += 64 - bit % 8;
  }
  return bit_count;
}

/// The same for Rice-coded gaps.
template <typename Keep>
Result<void> walk_rice(const IndexStream& stream, Keep keep) {
  const unsigned low_width = stream.rice_bits;
  const uint64_t low_mask = (uint64_t{1} << low_width) - 1;
  const uint64_t low_bytes = rice_low_bytes(stream);
  const uint64_t unused = stream.unit_count * low_width % 8;
  if (unused != 0 && stream.bytes.u8(low_bytes - 1) >> unused != 0) {
    return bad_index(low_bytes - 1, "unused bits behind the low parts of a Rice stream are set");
  }
  const ByteReader high = stream.bytes.slice(low_bytes, stream.bytes.size() - low_bytes);
  const uint64_t limit = block_limit(stream);
  uint64_t bit = 0;  // in `high`
  uint64_t next_block = 0;
  for (uint64_t unit = 0; unit < stream.unit_count; ++unit) {
    const uint64_t unit_offset = low_bytes + bit / 8;
    const uint64_t end_bit = find_one_bit(high, bit);
    if (end_bit == uint64_t{8} * high.size()) return cut_short(unit_offset, stream, unit);
    const uint64_t quotient = end_bit - bit;
    const uint64_t low_bit = unit * low_width;
    const uint64_t low = load_bits(stream.bytes, low_bit / 8) >> (low_bit % 8) & low_mask;
    // A larger quotient is outside by itself, and might not survive the shift.
    if (quotient > limit >> low_width) return outside(unit_offset, stream, unit);
    const uint64_t block = next_block + (quotient << low_width) + low;
    if (block >= limit) return outside(unit_offset, stream, unit);
    keep(static_cast<uint32_t>(block));
    next_block = block + 1;
    bit = end_bit + 1;
  }
  if (bit % 8 != 0 && high.u8(bit / 8) >> (bit % 8) != 0) {
    return bad_index(low_bytes + bit / 8, "bits behind the last unit of a Rice stream are set");
  }
  const uint64_t end = low_bytes + (bit + 7) / 8;
  if (end != stream.bytes.size()) return too_long(end, stream);
  return {};
}

/// Calls keep(block) for every unit of a stream of gaps.
template <typename Keep>
Result<void> walk_blocks(const IndexStream& stream, Keep keep) {
  if (stream.codec == IndexCodec::gaps8) return walk_gaps<uint8_t>(stream, keep);
  if (stream.codec == IndexCodec::gaps16) return walk_gaps<uint16_t>(stream, keep);
  return walk_rice(stream, keep);
}

Result<IndexList> decode_entries(const IndexStream& stream) {
  IndexList list;
  SHIRA_ASSIGN(list.entries, Array<uint32_t>::make(stream.unit_count));
  uint32_t* out = list.entries.data();
  SHIRA_TRY(walk_blocks(stream, [&out](uint32_t position) { *out++ = position; }));
  list.entry_count = stream.entry_count;
  return list;
}

Result<IndexList> decode_blocks(const IndexStream& stream) {
  const uint64_t length = stream.block_length;
  IndexList list;
  SHIRA_ASSIGN(list.runs, Array<Run>::make(stream.unit_count));
  RunMerger merger(list.runs.data());
  SHIRA_TRY(walk_blocks(stream, [&](uint32_t block) { merger.append(block * length, length); }));
  list.runs.truncate(merger.run_count());
  list.entry_count = stream.entry_count;
  return list;
}

/// Reads one LEB128 number in its shortest form below 2^32 and moves *offset behind it. The message
/// of what is wrong with it, or null.
const char* read_leb128(const ByteReader& bytes, uint64_t* offset, uint32_t* number) {
  uint64_t value = 0;
  for (unsigned shift = 0; shift < 35; shift += 7) {
    uint8_t byte = 0;
    if (!bytes.read(*offset, &byte)) return "a LEB128 number is cut short by the end of the stream";
    ++*offset;
    value |= static_cast<uint64_t>(byte & 0x7FU) << shift;
    if ((byte & 0x80U) != 0) continue;
    if (byte == 0 && shift > 0) return "a LEB128 number is not in its shortest form";
    if (value > UINT32_MAX) return "a LEB128 number does not fit 32 bits";
    *number = static_cast<uint32_t>(value);
    return nullptr;
  }
  return "a LEB128 number has more than 5 bytes";
}

Result<IndexList> decode_runs(const IndexStream& stream) {
  IndexList list;
  SHIRA_ASSIGN(list.runs, Array<Run>::make(stream.unit_count));
  uint64_t offset = 0;
  uint64_t end = 0;  // of the run before
  for (uint64_t unit = 0; unit < stream.unit_count; ++unit) {
    const uint64_t unit_offset = offset;
    if (offset == stream.bytes.size()) return cut_short(offset, stream, unit);
    uint32_t gap = 0;
    uint32_t length_minus_1 = 0;
    const char* fault = read_leb128(stream.bytes, &offset, &gap);
    if (fault == nullptr) fault = read_leb128(stream.bytes, &offset, &length_minus_1);
    if (fault == nullptr && gap == 0 && unit > 0) {
      fault = "it touches the run before, and they must be one run";
    }
    if (fault != nullptr) {
      return bad_index(unit_offset, "run " + std::to_string(unit) + ": " + fault);
    }
    const uint64_t start = end + gap;
    const uint64_t length = uint64_t{length_minus_1} + 1;
    if (!range_fits(start, length, stream.element_count)) {
      return outside(unit_offset, stream, unit);
    }
    list.runs[unit] = {static_cast<uint32_t>(start), static_cast<uint32_t>(length)};
    list.entry_count += length;
    end = start + length;
  }
  if (offset != stream.bytes.size()) return too_long(offset, stream);
  if (list.entry_count != stream.entry_count) {
    return bad_index(0, "the runs have " + std::to_string(list.entry_count) +
                            " entries together, but nnz is " + std::to_string(stream.entry_count));
  }
  return list;
}

}  // namespace

const char* index_codec_name(IndexCodec codec) {
  switch (codec) {
    case IndexCodec::gaps8:
      return "gaps8";
    case IndexCodec::gaps16:
      return "gaps16";
    case IndexCodec::rice:
      return "rice";
    case IndexCodec::runs:
      return "runs";
    case IndexCodec::structured:
      return "struct";
    case IndexCodec::random:
      return "random";
    case IndexCodec::top_magnitude:
      return "topk";
  }
  return "unknown";
}

uint64_t least_index_bytes(const IndexStream& stream) {
  switch (stream.codec) {
    case IndexCodec::gaps8:
      return stream.unit_count;
    case IndexCodec::gaps16:
    case IndexCodec::runs:
      return 2 * stream.unit_count;
    case IndexCodec::rice:
      return rice_low_bytes(stream) + (stream.unit_count + 7) / 8;
    case IndexCodec::structured:
      return 16;
    case IndexCodec::random:
      return 8;
    case IndexCodec::top_magnitude:
      return 0;
  }
  return 0;
}

Result<IndexList> decode_index(const IndexStream& stream) {
  if (stream.codec == IndexCodec::runs) return decode_runs(stream);
  return stream.block_length == 1 ? decode_entries(stream) : decode_blocks(stream);
}

}  // namespace shira
