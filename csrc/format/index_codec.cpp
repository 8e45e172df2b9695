// SPDX-License-Identifier: Apache-2.0
// Decoders of the index streams. A careful walk over the units proves every one of them and places
// every error; for entries a quick loop, which stores before it checks, goes ahead of it, piece by
// piece. Bytes are spent once their units are proven: neither looks at them again.
#include "format/index_codec.h"

#include <algorithm>
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

/// The stream decodes to single entries, not to runs, where those would take more memory.
bool is_entries(const IndexStream& stream) {
  return stream.entry_count * sizeof(uint32_t) < stream.unit_count * sizeof(Run);
}

/// Whole blocks in the tensor: the last, shorter piece cannot be addressed.
uint64_t block_limit(const IndexStream& stream) {
  return stream.element_count / stream.block_length;
}

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "quick loops load words as they stand");

template <typename Word>
Word load(const uint8_t* bytes) {
  Word word;
  __builtin_memcpy(&word, bytes, sizeof(word));
  return word;
}

/// Where a walk over gaps stands between two units.
struct Cursor {
  uint64_t unit = 0;
  uint64_t next_block = 0;  // the one that a gap of 0 means
  uint64_t place = 0;       // GAPS: byte of the stream. RICE: bit of the high parts
};

constexpr uint64_t kPieceBytes = 16384;  // of a stream, or of its high parts
constexpr uint64_t kPieceUnits = 16384;  // of the careful walk

/// The stream before byte `place` of it is proven.
void spend_to(const IndexStream& stream, uint64_t place, SpentBytes* spent) {
  spent->spend(stream.bytes.data(), stream.bytes.data() + place);
}

// --- GAPS8 and GAPS16

/// M of FORMAT.md: another digit follows.
template <typename Digit>
constexpr Digit kMore = static_cast<Digit>(~Digit{0});

/// Reads gaps written in `Digit`s from `cursor` on and calls keep(block) for the strictly
/// increasing blocks, all below the tensor's block count.
template <typename Digit, typename Keep>
Result<void> walk_gaps(const IndexStream& stream, Cursor cursor, SpentBytes* spent, Keep keep) {
  const uint64_t limit = block_limit(stream);
  for (; cursor.unit < stream.unit_count; ++cursor.unit) {
    if (cursor.unit % kPieceUnits == 0) spend_to(stream, cursor.place, spent);
    const uint64_t unit_offset = cursor.place;
    uint64_t block = cursor.next_block;  // cannot overflow: every digit takes a byte of memory
    Digit digit;
    do {
      if (!stream.bytes.read(cursor.place, &digit)) {
        return cut_short(unit_offset, stream, cursor.unit);
      }
      cursor.place += sizeof(Digit);
      block += digit;
    } while (digit == kMore<Digit>);
    if (block >= limit) return outside(unit_offset, stream, cursor.unit);
    keep(static_cast<uint32_t>(block));
    cursor.next_block = block + 1;
  }
  if (cursor.place != stream.bytes.size()) return too_long(cursor.place, stream);
  return {};
}

/// Decodes a piece of units from `start` on to `out` without a branch per digit, and returns where
/// to go on. That is `start` itself when a unit is outside, and near the end: for the careful walk.
template <typename Digit>
Cursor decode_gaps_quickly(const IndexStream& stream, const Cursor& start, uint32_t* out) {
  constexpr uint64_t kGroupDigits = 8;  // they end at most as many units
  constexpr uint64_t kGroupBytes = kGroupDigits * sizeof(Digit);
  const uint8_t* const bytes = stream.bytes.data();
  const uint64_t end = std::min<uint64_t>(stream.bytes.size(), start.place + kPieceBytes);
  Cursor cursor = start;
  while (stream.unit_count - cursor.unit >= kGroupDigits && end - cursor.place >= kGroupBytes) {
    for (uint64_t i = 0; i < kGroupDigits; ++i) {
      const auto digit = load<Digit>(bytes + cursor.place + i * sizeof(Digit));
      out[cursor.unit] = static_cast<uint32_t>(cursor.next_block + digit);
      const uint64_t ends_unit = digit != kMore<Digit> ? 1 : 0;  // else the next digit overwrites
      cursor.unit += ends_unit;
      cursor.next_block += digit + ends_unit;
    }
    cursor.place += kGroupBytes;
  }
  if (cursor.next_block > block_limit(stream)) return start;  // blocks ascend: the last one tells
  while (cursor.place > start.place &&
         load<Digit>(bytes + cursor.place - sizeof(Digit)) == kMore<Digit>) {  // back to a unit
    cursor.place -= sizeof(Digit);
    cursor.next_block -= kMore<Digit>;
  }
  return cursor;
}

// --- RICE

uint64_t rice_low_bytes(const IndexStream& stream) {
  return (stream.unit_count * stream.rice_bits + 7) / 8;
}

ByteReader rice_high_parts(const IndexStream& stream) {
  const uint64_t low_bytes = rice_low_bytes(stream);
  return stream.bytes.slice(low_bytes, stream.bytes.size() - low_bytes);
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

/// A Rice stream's two parts, which are read side by side.
class SpentRice {
 public:
  SpentRice(const IndexStream& stream, SpentBytes* spent)
      : stream_(stream), low_(*spent), high_(spent->another()) {}

  /// All units before `cursor` are proven.
  void spend_to(const Cursor& cursor) {
    const uint8_t* low = stream_.bytes.data();
    const uint8_t* high = rice_high_parts(stream_).data();
    low_.spend(low, low + cursor.unit * stream_.rice_bits / 8);
    // The last low parts are loaded as words, which reach into the first word of the high ones.
    if (cursor.place >= 128) high_.spend(high + 8, high + cursor.place / 64 * 8);
  }

 private:
  const IndexStream& stream_;
  SpentBytes& low_;
  SpentBytes high_;
};

/// As walk_gaps().
template <typename Keep>
Result<void> walk_rice(const IndexStream& stream, Cursor cursor, SpentBytes* spent, Keep keep) {
  const unsigned low_width = stream.rice_bits;
  const uint64_t low_mask = (uint64_t{1} << low_width) - 1;
  const uint64_t low_bytes = rice_low_bytes(stream);
  const uint64_t unused = stream.unit_count * low_width % 8;
  if (unused != 0 && stream.bytes.u8(low_bytes - 1) >> unused != 0) {
    return bad_index(low_bytes - 1, "unused bits behind the low parts of a Rice stream are set");
  }
  const ByteReader high = rice_high_parts(stream);
  const uint64_t limit = block_limit(stream);
  SpentRice spent_parts(stream, spent);
  for (; cursor.unit < stream.unit_count; ++cursor.unit) {
    if (cursor.unit % kPieceUnits == 0) spent_parts.spend_to(cursor);
    const uint64_t unit_offset = low_bytes + cursor.place / 8;
    const uint64_t end_bit = find_one_bit(high, cursor.place);
    if (end_bit == uint64_t{8} * high.size()) return cut_short(unit_offset, stream, cursor.unit);
    const uint64_t quotient = end_bit - cursor.place;
    const uint64_t low_bit = cursor.unit * low_width;
    const uint64_t low = load_bits(stream.bytes, low_bit / 8) >> (low_bit % 8) & low_mask;
    // A larger quotient is outside by itself, and might not survive the shift.
    if (quotient > limit >> low_width) return outside(unit_offset, stream, cursor.unit);
    const uint64_t block = cursor.next_block + (quotient << low_width) + low;
    if (block >= limit) return outside(unit_offset, stream, cursor.unit);
    keep(static_cast<uint32_t>(block));
    cursor.next_block = block + 1;
    cursor.place = end_bit + 1;
  }
  if (cursor.place % 8 != 0 && high.u8(cursor.place / 8) >> (cursor.place % 8) != 0) {
    return bad_index(low_bytes + cursor.place / 8,
                     "bits behind the last unit of a Rice stream are set");
  }
  const uint64_t end = low_bytes + (cursor.place + 7) / 8;
  if (end != stream.bytes.size()) return too_long(end, stream);
  return {};
}

/// As decode_gaps_quickly(): whole words of the high parts, but not those that might hold the last
/// 64 units.
Cursor decode_rice_quickly(const IndexStream& stream, const Cursor& start, uint32_t* out) {
  const unsigned low_width = stream.rice_bits;
  const uint64_t low_mask = (uint64_t{1} << low_width) - 1;
  const uint64_t limit = block_limit(stream);
  const ByteReader high = rice_high_parts(stream);
  // With more zero bits than this a unit is outside; with fewer no shift below loses a bit.
  if (uint64_t{8} * high.size() > stream.unit_count + (limit >> low_width) + 7) return start;
  Cursor cursor = start;
  // Of the low parts so far, by the formula below; cannot overflow: 2^32 units of 31 bits at most.
  uint64_t low_sum = start.next_block - start.unit - ((start.place - start.unit) << low_width);
  const uint64_t first_byte = start.place / 64 * 8;
  const uint64_t end = std::min<uint64_t>(high.size(), first_byte + kPieceBytes);
  uint64_t used_bits = start.place % 64;  // of the first word
  // Low parts are loaded as words, too: behind them are the 8 bytes of high parts at least.
  for (uint64_t byte = first_byte; stream.unit_count - cursor.unit >= 64 && end - byte >= 8;
       byte += 8) {
    uint64_t word = load<uint64_t>(high.data() + byte) >> used_bits << used_bits;
    used_bits = 0;
    for (; word != 0; word &= word - 1) {
      const uint64_t bit = 8 * byte + static_cast<uint64_t>(__builtin_ctzll(word));
      const uint64_t low_bit = cursor.unit * low_width;
      low_sum += load<uint64_t>(stream.bytes.data() + low_bit / 8) >> (low_bit % 8) & low_mask;
      // All quotients together are the zero bits so far.
      const uint64_t block = ((bit - cursor.unit) << low_width) + low_sum + cursor.unit;
      out[cursor.unit] = static_cast<uint32_t>(block);
      cursor = {cursor.unit + 1, block + 1, bit + 1};
    }
  }
  return cursor.next_block > limit ? start : cursor;
}

// --- lists

/// Piece by piece as long as that gets on; `spend` is told of each.
template <typename Decode, typename Spend>
Cursor repeat(Decode decode, Spend spend) {
  Cursor cursor;
  for (;;) {
    const Cursor next = decode(cursor);
    if (next.unit <= cursor.unit) return cursor;
    cursor = next;
    spend(cursor);
  }
}

Cursor decode_quickly(const IndexStream& stream, SpentBytes* spent, uint32_t* out) {
  if (stream.codec == IndexCodec::rice) {
    SpentRice spent_parts(stream, spent);
    return repeat([&](const Cursor& start) { return decode_rice_quickly(stream, start, out); },
                  [&](const Cursor& cursor) { spent_parts.spend_to(cursor); });
  }
  const auto decode = stream.codec == IndexCodec::gaps8 ? decode_gaps_quickly<uint8_t>
                                                        : decode_gaps_quickly<uint16_t>;
  return repeat([&](const Cursor& start) { return decode(stream, start, out); },
                [&](const Cursor& cursor) { spend_to(stream, cursor.place, spent); });
}

template <typename Keep>
Result<void> walk(const IndexStream& stream, const Cursor& cursor, SpentBytes* spent, Keep keep) {
  if (stream.codec == IndexCodec::gaps8) return walk_gaps<uint8_t>(stream, cursor, spent, keep);
  if (stream.codec == IndexCodec::gaps16) return walk_gaps<uint16_t>(stream, cursor, spent, keep);
  return walk_rice(stream, cursor, spent, keep);
}

Result<IndexList> decode_entries(const IndexStream& stream, ArrayPool* pool, SpentBytes* spent) {
  IndexList list;
  SHIRA_ASSIGN(list.entries, pool->take<uint32_t>(stream.unit_count));
  const Cursor cursor = decode_quickly(stream, spent, list.entries.data());
  uint32_t* out = list.entries.data() + cursor.unit;
  SHIRA_TRY(walk(stream, cursor, spent, [&out](uint32_t position) { *out++ = position; }));
  list.entry_count = stream.entry_count;
  return list;
}

Result<IndexList> decode_blocks(const IndexStream& stream, ArrayPool* pool, SpentBytes* spent) {
  const uint64_t length = stream.block_length;
  IndexList list;
  SHIRA_ASSIGN(list.runs, pool->take<Run>(stream.unit_count));
  RunMerger merger(list.runs.data());
  SHIRA_TRY(
      walk(stream, {}, spent, [&](uint32_t block) { merger.append(block * length, length); }));
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

/// Keeps the runs of a stream as what they were said to be: runs or entries.
class RunKeeper {
 public:
  static Result<RunKeeper> make(const IndexStream& stream, ArrayPool* pool) {
    RunKeeper keeper;
    if (is_entries(stream)) {
      SHIRA_ASSIGN(keeper.list_.entries, pool->take<uint32_t>(stream.entry_count));
    } else {
      SHIRA_ASSIGN(keeper.list_.runs, pool->take<Run>(stream.unit_count));
    }
    return keeper;
  }

  void keep(uint64_t unit, uint64_t start, uint64_t length) {
    if (list_.entries.empty()) {
      list_.runs[unit] = {static_cast<uint32_t>(start), static_cast<uint32_t>(length)};
    } else if (list_.entry_count + length <= list_.entries.size()) {  // else refused in the end
      for (uint64_t i = 0; i < length; ++i) {
        list_.entries[list_.entry_count + i] = static_cast<uint32_t>(start + i);
      }
    }
    list_.entry_count += length;
  }

  uint64_t entry_count() const { return list_.entry_count; }
  IndexList take() { return std::move(list_); }

 private:
  IndexList list_;
};

Result<IndexList> decode_runs(const IndexStream& stream, ArrayPool* pool, SpentBytes* spent) {
  SHIRA_ASSIGN(RunKeeper keeper, RunKeeper::make(stream, pool));
  uint64_t offset = 0;
  uint64_t end = 0;  // of the run before
  for (uint64_t unit = 0; unit < stream.unit_count; ++unit) {
    const uint64_t unit_offset = offset;
    if (unit % kPieceUnits == 0) spend_to(stream, offset, spent);
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
    keeper.keep(unit, start, length);
    end = start + length;
  }
  if (offset != stream.bytes.size()) return too_long(offset, stream);
  if (keeper.entry_count() != stream.entry_count) {
    return bad_index(0, "the runs have " + std::to_string(keeper.entry_count()) +
                            " entries together, but nnz is " + std::to_string(stream.entry_count));
  }
  return keeper.take();
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

Result<IndexList> decode_index(const IndexStream& stream, ArrayPool* pool, SpentBytes* spent) {
  if (stream.codec == IndexCodec::runs) return decode_runs(stream, pool, spent);
  return is_entries(stream) ? decode_entries(stream, pool, spent)
                            : decode_blocks(stream, pool, spent);
}

Result<IndexList> decode_index(const IndexStream& stream) {
  ArrayPool none;
  SpentBytes kept;
  // An array that no pool has room for owns its memory.
  // NOLINTNEXTLINE(clang-analyzer-cplusplus.NewDeleteLeaks)
  return decode_index(stream, &none, &kept);
}

uint64_t decoded_index_bytes(const IndexStream& stream) {
  return is_entries(stream) ? ArrayPool::bytes_of<uint32_t>(stream.entry_count)
                            : ArrayPool::bytes_of<Run>(stream.unit_count);
}

}  // namespace shira
