// Decoders of the five index streams. Every position is compared with the tensor before it is kept.
// SPDX-License-Identifier: Apache-2.0
#include "format/index_codec.h"

#include <string>

namespace shira {
namespace {

Error bad_index(uint64_t offset, std::string message) {
  return Error{Status::BAD_INDEX, std::move(message), {}, {}, offset};
}

Error too_short(const IndexStream& stream, uint64_t unit_index) {
  return bad_index(stream.bytes.size(), "the index stream ends after " +
                                            std::to_string(unit_index) + " of " +
                                            std::to_string(stream.unit_count) + " units");
}

Error too_long(const IndexStream& stream, uint64_t offset) {
  return bad_index(offset, "the index stream has " + std::to_string(stream.bytes.size() - offset) +
                               " bytes behind its last unit");
}

Error outside(uint64_t offset, const IndexStream& stream, uint64_t unit_index) {
  return bad_index(offset, "unit " + std::to_string(unit_index) +
                               " of the index stream leaves the tensor of " +
                               std::to_string(stream.element_count) + " elements");
}

/// Reads the gaps of GAPS and BLOCKS, written in `Digit`s, and calls keep(position) for each of the
/// unit_count strictly increasing positions below `limit`.
template <typename Digit, typename Keep>
Result<void> decode_gaps(const IndexStream& stream, uint64_t limit, Keep keep) {
  constexpr Digit kMore = static_cast<Digit>(~Digit{0});  // M of FORMAT.md: another digit follows
  const ByteReader& bytes = stream.bytes;
  uint64_t offset = 0;
  uint64_t next_position = 0;  // the one a gap of 0 means
  for (uint64_t unit = 0; unit < stream.unit_count; ++unit) {
    const uint64_t unit_offset = offset;
    uint64_t position = next_position;  // cannot overflow: every digit takes a byte of memory
    Digit digit;
    do {
      if (!bytes.read(offset, &digit)) return too_short(stream, unit);
      offset += sizeof(Digit);
      position += digit;
    } while (digit == kMore);
    if (position >= limit) return outside(unit_offset, stream, unit);
    keep(static_cast<uint32_t>(position));
    next_position = position + 1;
  }
  if (offset != bytes.size()) return too_long(stream, offset);
  return {};
}

template <typename Digit>
Result<IndexList> decode_entries(const IndexStream& stream) {
  if (stream.bytes.size() / sizeof(Digit) < stream.unit_count) {
    return too_short(stream, stream.bytes.size() / sizeof(Digit));
  }
  IndexList list;
  SHIRA_ASSIGN(list.entries, Array<uint32_t>::make(stream.unit_count));
  uint32_t* out = list.entries.data();
  SHIRA_TRY(decode_gaps<Digit>(stream, stream.element_count,
                               [&out](uint32_t position) { *out++ = position; }));
  list.entry_count = stream.entry_count;
  return list;
}

template <typename Digit>
Result<IndexList> decode_blocks(const IndexStream& stream) {
  if (stream.bytes.size() / sizeof(Digit) < stream.unit_count) {
    return too_short(stream, stream.bytes.size() / sizeof(Digit));
  }
  const uint32_t length = stream.block_length;
  IndexList list;
  SHIRA_ASSIGN(list.runs, Array<Run>::make(stream.unit_count));
  Run* const runs = list.runs.data();
  size_t run_count = 0;
  // Only whole blocks count: the last, shorter piece of a tensor cannot be addressed.
  SHIRA_TRY(decode_gaps<Digit>(stream, stream.element_count / length, [&](uint32_t block) {
    const uint32_t start = block * length;  // < element_count
    if (run_count > 0 && runs[run_count - 1].start + runs[run_count - 1].length == start) {
      runs[run_count - 1].length += length;
    } else {
      runs[run_count++] = {start, length};
    }
  }));
  list.runs.truncate(run_count);
  list.entry_count = stream.entry_count;
  return list;
}

/// Reads one LEB128 number in its shortest form below 2^32 and moves *offset behind it.
Result<uint32_t> read_leb128(const IndexStream& stream, uint64_t unit, uint64_t* offset) {
  const uint64_t begin = *offset;
  uint64_t value = 0;
  for (unsigned shift = 0; shift < 35; shift += 7) {
    uint8_t byte = 0;
    if (!stream.bytes.read(*offset, &byte)) return too_short(stream, unit);
    ++*offset;
    value |= static_cast<uint64_t>(byte & 0x7FU) << shift;
    if ((byte & 0x80U) != 0) continue;
    if (byte == 0 && shift > 0) {
      return bad_index(begin, "a LEB128 number is not in its shortest form");
    }
    if (value > UINT32_MAX) return bad_index(begin, "a LEB128 number does not fit 32 bits");
    return static_cast<uint32_t>(value);
  }
  return bad_index(begin, "a LEB128 number has more than 5 bytes");
}

Result<IndexList> decode_runs(const IndexStream& stream) {
  if (stream.bytes.size() / 2 < stream.unit_count) {
    return too_short(stream, stream.bytes.size() / 2);
  }
  IndexList list;
  SHIRA_ASSIGN(list.runs, Array<Run>::make(stream.unit_count));
  uint64_t offset = 0;
  uint64_t position = 0;
  for (uint64_t unit = 0; unit < stream.unit_count; ++unit) {
    const uint64_t unit_offset = offset;
    SHIRA_ASSIGN(const uint32_t gap, read_leb128(stream, unit, &offset));
    SHIRA_ASSIGN(const uint32_t length_minus_1, read_leb128(stream, unit, &offset));
    if (gap == 0 && unit > 0) {
      return bad_index(unit_offset, "run " + std::to_string(unit) +
                                        " touches the run before it; they must be one run");
    }
    const uint64_t start = position + gap;
    const uint64_t length = uint64_t{length_minus_1} + 1;
    if (!range_fits(start, length, stream.element_count)) {
      return outside(unit_offset, stream, unit);
    }
    list.runs[unit] = {static_cast<uint32_t>(start), static_cast<uint32_t>(length)};
    list.entry_count += length;
    position = start + length;
  }
  if (offset != stream.bytes.size()) return too_long(stream, offset);
  if (list.entry_count != stream.entry_count) {
    return bad_index(0, "the runs have " + std::to_string(list.entry_count) +
                            " entries together, the tensor declares " +
                            std::to_string(stream.entry_count));
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
    case IndexCodec::runs:
      return "runs";
    case IndexCodec::blocks8:
      return "blocks8";
    case IndexCodec::blocks16:
      return "blocks16";
  }
  return "unknown";
}

Result<IndexList> decode_index(const IndexStream& stream) {
  switch (stream.codec) {
    case IndexCodec::gaps8:
      return decode_entries<uint8_t>(stream);
    case IndexCodec::gaps16:
      return decode_entries<uint16_t>(stream);
    case IndexCodec::runs:
      return decode_runs(stream);
    case IndexCodec::blocks8:
      return decode_blocks<uint8_t>(stream);
    case IndexCodec::blocks16:
      return decode_blocks<uint16_t>(stream);
  }
  return bad_index(0, "the index codec is unknown");
}

}  // namespace shira
