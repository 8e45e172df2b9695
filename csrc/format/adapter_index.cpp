// Steps 6 to 8 of docs/FORMAT.md section 13: index tables, their agreement with TENSORS, positions.
// SPDX-License-Identifier: Apache-2.0
#include "format/adapter_index.h"

#include <algorithm>
#include <new>
#include <string>
#include <utility>

#include "base/checked_math.h"
#include "format/adapter_steps.h"
#include "format/message.h"
#include "format/row_groups.h"

namespace shira {
namespace {

using namespace layout::index;

bool has_blocks(IndexCodec codec) {
  return codec != IndexCodec::runs && codec != IndexCodec::structured &&
         codec != IndexCodec::top_magnitude;
}

Result<void> parse_codec(const Record& record, bool has_tiers, IndexStream* stream) {
  const uint8_t codec = record.u8(kCodec);
  if (!is_index_codec(codec)) {
    return record.refuse(Status::BAD_ENUM, kCodec, meaningless("index codec", codec));
  }
  stream->codec = static_cast<IndexCodec>(codec);
  if (has_tiers && is_derived(stream->codec)) {
    return record.refuse(Status::BAD_ENUM, kCodec,
                         std::string("a file of several tiers cannot hold a derived mask (") +
                             index_codec_name(stream->codec) + ")");
  }
  stream->rice_bits = record.u8(kRiceBits);
  const uint8_t max_rice_bits = stream->codec == IndexCodec::rice ? kMaxRiceBits : 0;
  if (stream->rice_bits > max_rice_bits) {
    return record.refuse(Status::BAD_INDEX, kRiceBits,
                         out_of_range("rice_bits", stream->rice_bits, 0, max_rice_bits));
  }
  SHIRA_TRY(record.check_zero(kReserved1, kBlockLength, "a reserved field of the index row"));
  stream->block_length = record.u32(kBlockLength);
  const uint32_t low = has_blocks(stream->codec) ? 1 : 0;
  const uint32_t high = has_blocks(stream->codec) ? kMaxBlockLength : 0;
  if (stream->block_length < low || stream->block_length > high) {
    return record.refuse(Status::BAD_INDEX, kBlockLength,
                         out_of_range("block_length", stream->block_length, low, high));
  }
  return {};
}

Result<void> parse_counts(const Record& record, IndexStream* stream) {
  stream->unit_count = record.u32(kUnitCount);
  if (stream->unit_count == 0) {
    return record.refuse(Status::BAD_COUNT, kUnitCount, "the index row has no units");
  }
  SHIRA_TRY(record.check_zero(kReserved2, kElementCount, "a reserved field of the index row"));
  stream->element_count = record.u64(kElementCount);
  if (stream->element_count < 1 || stream->element_count > layout::kMaxElementCount) {
    return record.refuse(
        Status::BAD_SHAPE, kElementCount,
        out_of_range("element_count", stream->element_count, 1, layout::kMaxElementCount));
  }
  stream->entry_count = record.u64(kNnz);
  if (stream->entry_count < 1 || stream->entry_count > stream->element_count) {
    return record.refuse(Status::BAD_COUNT, kNnz,
                         out_of_range("nnz", stream->entry_count, 1, stream->element_count));
  }
  bool agrees = stream->unit_count == 1;  // of structured and top_magnitude
  if (has_blocks(stream->codec)) {
    agrees = stream->entry_count == stream->unit_count * stream->block_length;
  } else if (stream->codec == IndexCodec::runs) {
    agrees = stream->entry_count >= stream->unit_count;
  }
  if (agrees) return {};
  return record.refuse(Status::BAD_COUNT, kNnz,
                       std::to_string(stream->unit_count) + " units (" +
                           index_codec_name(stream->codec) + ", block_length " +
                           std::to_string(stream->block_length) + ") cannot have " +
                           std::to_string(stream->entry_count) + " entries together");
}

/// `end_bytes` is where the stream before ends in the section.
Result<void> parse_stream(const Record& record, const ParsedFile& file, const SectionInfo& section,
                          uint64_t* end_bytes, IndexRow* row) {
  const uint64_t offset = record.u64(kOffset);
  const uint64_t due = align_up(*end_bytes, layout::kStreamAlignment);
  if (offset != due) {
    return record.refuse(Status::BAD_LAYOUT, kOffset,
                         differs("the index stream's offset", offset, due));
  }
  SHIRA_TRY(record.check_zero_at(section.offset_bytes + *end_bytes,
                                 section.offset_bytes + std::min(due, section.size_bytes),
                                 "the padding between index streams"));
  const uint64_t size_bytes = record.u64(kSize);
  if (!range_fits(offset, size_bytes, section.size_bytes)) {
    return record.refuse(Status::BAD_LAYOUT, kSize,
                         "the stream of " + std::to_string(size_bytes) + " bytes at offset " +
                             std::to_string(offset) + " leaves " + section_name(section));
  }
  const uint64_t least_bytes = least_index_bytes(row->stream);
  if (is_derived(row->stream.codec) ? size_bytes != least_bytes : size_bytes < least_bytes) {
    return record.refuse(Status::BAD_INDEX, kSize,
                         "a stream of " + std::to_string(size_bytes) + " bytes cannot hold " +
                             std::to_string(row->stream.unit_count) + " units of " +
                             index_codec_name(row->stream.codec));
  }
  row->stream_offset = section.offset_bytes + offset;
  row->stream.bytes = file.bytes.slice(row->stream_offset, size_bytes);
  *end_bytes = offset + size_bytes;
  return {};
}

Result<std::shared_ptr<IndexTable>> parse_table(const ParsedFile& file,
                                                const SectionInfo& section) {
  const uint64_t table_bytes = uint64_t{section.index_count} * layout::kIndexRowBytes;
  if (table_bytes > section.size_bytes) {
    return Record(file.bytes, layout::section_row(layout::index_section(section.tier)))
        .refuse(Status::BAD_LAYOUT, layout::section::kSize,
                section_name(section) + " of " + std::to_string(section.size_bytes) +
                    " bytes cannot hold its index table of " + std::to_string(table_bytes));
  }
  std::shared_ptr<IndexTable> table(new (std::nothrow) IndexTable(file.bytes_of(section)));
  if (!table) return Error{Status::OUT_OF_MEMORY, "no memory for an index table"};
  table->rows.resize(section.index_count);
  uint64_t end_bytes = table_bytes;
  for (uint32_t number = 0; number < section.index_count; ++number) {
    const Record record(file.bytes, section.offset_bytes + number * layout::kIndexRowBytes);
    IndexRow& row = table->rows[number];
    SHIRA_TRY(parse_codec(record, file.header.tier_count > 1, &row.stream));
    SHIRA_TRY(parse_counts(record, &row.stream));
    SHIRA_TRY(parse_stream(record, file, section, &end_bytes, &row));
  }
  SHIRA_TRY(check_covered(file, section, end_bytes, "streams"));
  return table;
}

}  // namespace

Result<void> parse_index_tables(const OpenOptions& options, ParsedFile* file) {
  file->tiers.resize(file->header.tier_count);
  for (uint32_t tier = 0; tier < file->header.tier_count; ++tier) {
    const SectionInfo& section = file->sections[layout::index_section(tier)];
    if (section.kind == layout::kIndexReference) {
      SHIRA_ASSIGN(file->tiers[tier].table, find_index_table(*file, section, options));
    } else {
      SHIRA_ASSIGN(file->tiers[tier].own, parse_table(*file, section));
      file->tiers[tier].table = file->tiers[tier].own;
    }
  }
  return {};
}

Result<void> check_agreement(const ParsedFile& file) {
  for (size_t i = 0; i < file.rows.size(); ++i) {
    const TensorRow& row = file.rows[i];
    const IndexStream& index = file.tiers[row.tier].table->rows[row.index_number].stream;
    const Record record = file.record_of(row);
    if (row.nnz != index.entry_count) {
      return record.refuse(Status::BAD_COUNT, layout::tensor::kNnz,
                           differs("nnz", row.nnz, index.entry_count) + " as in the index row");
    }
    if (row.element_count != index.element_count) {
      return record.refuse(
          Status::BAD_SHAPE, layout::tensor::kDims,
          differs("the number of elements", row.element_count, index.element_count) +
              " as in the index row");
    }
    if (index.codec == IndexCodec::top_magnitude && !is_float(row.dtype)) {
      return record.refuse(Status::BAD_ENUM, layout::tensor::kDtype,
                           std::string("a mask of largest magnitudes cannot be that of a ") +
                               dtype_name(row.dtype) + " tensor");
    }
  }
  return {};
}

namespace {

/// The error of a codec, whose offset counts from the stream, in terms of the file. The stream of a
/// reference was checked in its own file, so that only memory can fail it.
Error place_error(const ParsedFile& file, uint32_t tier, uint32_t number, Error error) {
  if (error.offset_bytes != kNoOffset) {
    error.offset_bytes += file.tiers[tier].table->rows[number].stream_offset;
  }
  for (size_t i = 0; i < file.rows.size() && error.tensor.empty(); ++i) {
    const TensorRow& row = file.rows[i];
    if (row.tier == tier && row.index_number == number) error.tensor = row.name;
  }
  return error;
}

Result<std::shared_ptr<const IndexList>> decode_list(const IndexRow& row, ArrayPool* pool,
                                                     SpentBytes* spent) {
  if (std::shared_ptr<const IndexList> list = row.list.lock()) return list;
  SHIRA_ASSIGN(IndexList decoded, decode_index(row.stream, pool, spent));
  std::shared_ptr<const IndexList> list(new (std::nothrow) IndexList(std::move(decoded)));
  if (!list) return Error{Status::OUT_OF_MEMORY, "no memory for the positions"};
  return list;
}

/// What the lists of `group` take that are still to be decoded.
uint64_t new_list_bytes(const IndexTable& table, const RowGroup& group) {
  uint64_t size_bytes = 0;
  for (size_t number = group.begin; number < group.end; ++number) {
    const IndexRow& row = table.rows[number];
    const bool is_new = !is_derived(row.stream.codec) && row.list.expired();
    if (is_new) size_bytes += decoded_index_bytes(row.stream);
  }
  return size_bytes;
}

/// Their streams were only to be summed; of their rows everything is known.
void spend_unopened_tiers(const ParsedFile& file) {
  SpentBytes spent(!file.keeps_content);
  for (uint32_t tier = file.opened_tier_count; tier < file.header.tier_count; ++tier) {
    for (const uint32_t number : {layout::index_section(tier), layout::value_section(tier)}) {
      const ByteReader bytes = file.bytes_of(file.sections[number]);
      spent.spend(bytes.data(), bytes.data() + bytes.size());
    }
  }
  spent.flush();
}

using Lists = std::vector<std::shared_ptr<const IndexList>>;

/// One tier being decoded: the lists and rules by row of its table.
struct TierDecoder {
  const ParsedFile& file;
  uint32_t tier;
  TierIndex& index;
  Lists lists;

  /// Nothing but the rows of this group is written to.
  Result<void> decode_group(const RowGroup& group, ArrayPool* pool) {
    SpentBytes spent(index.own && !file.keeps_content);
    for (size_t number = group.begin; number < group.end; ++number) {
      Result<void> decoded = decode_row(number, pool, &spent);
      if (!decoded.ok()) {
        return place_error(file, tier, static_cast<uint32_t>(number), std::move(decoded.error()));
      }
      const ByteReader& bytes = index.table->rows[number].stream.bytes;
      spent.spend(bytes.data(), bytes.data() + bytes.size());
    }
    spent.flush();
    return {};
  }

  Result<void> decode_row(size_t number, ArrayPool* pool, SpentBytes* spent) {
    const IndexRow& row = index.table->rows[number];
    if (is_derived(row.stream.codec)) {
      SHIRA_ASSIGN(index.rules[number], parse_mask_rule(row.stream));
      return {};
    }
    SHIRA_ASSIGN(lists[number], decode_list(row, pool, spent));
    if (index.own) index.own->rows[number].list = lists[number];
    return {};
  }
};

Result<void> decode_tier(uint32_t tier, ParsedFile* file) {
  TierIndex& index = file->tiers[tier];
  const IndexTable& table = *index.table;
  index.rules.resize(table.rows.size());
  TierDecoder decoder{*file, tier, index, Lists(table.rows.size())};
  const RowGroups groups(table.rows.size(), file->group_bytes,
                         [&](size_t number) { return table.rows[number].stream.bytes.size(); });
  // Lists share an allocation, but for those of several tiers, which are merged one by one and must
  // go one by one, too.
  std::vector<ArrayPool> pools(groups.size());
  if (file->opened_tier_count == 1) {
    SHIRA_ASSIGN(ArrayPool pool, ArrayPool::make(new_list_bytes(table, {0, table.rows.size()})));
    for (size_t i = 0; i < groups.size(); ++i)
      pools[i] = pool.cut(new_list_bytes(table, groups[i]));
  }
  SHIRA_TRY(groups.run(file->pool.get(),
                       [&](size_t i) { return decoder.decode_group(groups[i], &pools[i]); }));
  for (size_t i = 0; i < file->rows.size(); ++i) {
    const TensorRow& row = file->rows[i];
    if (row.tier == tier) file->positions[i] = decoder.lists[row.index_number];
  }
  return {};
}

}  // namespace

Result<void> decode_index_streams(ParsedFile* file) {
  spend_unopened_tiers(*file);
  file->positions.resize(file->rows.size());
  for (uint32_t tier = 0; tier < file->opened_tier_count; ++tier) {
    SHIRA_TRY(decode_tier(tier, file));
  }
  return {};
}

}  // namespace shira
