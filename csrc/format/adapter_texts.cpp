// Steps 3 and 5 of docs/FORMAT.md section 13: rows of ADAPTERS, names and metadata.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <string>
#include <unordered_set>

#include "base/checked_math.h"
#include "format/adapter_steps.h"
#include "format/message.h"
#include "format/text.h"

namespace shira {
namespace {

using namespace layout::adapter;

/// flags of the row, its metadata, and reserved fields.
Result<void> parse_rest(const Record& record, uint64_t* metadata_end, ParsedFile* file,
                        AdapterRow* row) {
  const uint32_t flags = record.u32(kFlags);
  if ((flags & ~kFlagBound) != 0) {
    return record.refuse(Status::RESERVED_NOT_ZERO, kFlags,
                         "reserved flags of the adapter are set (" + std::to_string(flags) + ")");
  }
  row->is_bound = flags == kFlagBound;
  SHIRA_TRY(record.check_zero(kReserved1, kMetadataOffset, "a reserved field of the adapter"));

  const SectionInfo& section = file->section(layout::kMetadata);
  const uint32_t offset = record.u32(kMetadataOffset);
  const uint32_t size_bytes = record.u32(kMetadataBytes);
  if (offset != *metadata_end) {
    return record.refuse(Status::BAD_LAYOUT, kMetadataOffset,
                         differs("the metadata's offset", offset, *metadata_end));
  }
  if (size_bytes < layout::kMinMetadataBytes || size_bytes > layout::kMaxMetadataBytes) {
    return record.refuse(Status::BAD_METADATA, kMetadataBytes,
                         out_of_range("the size of the metadata", size_bytes,
                                      layout::kMinMetadataBytes, layout::kMaxMetadataBytes));
  }
  if (!range_fits(offset, size_bytes, section.size_bytes)) {
    return record.refuse(
        Status::BAD_LAYOUT, kMetadataBytes,
        "the metadata of " + std::to_string(size_bytes) + " bytes leaves section METADATA");
  }
  row->metadata = file->bytes_of(section).slice(offset, size_bytes);
  *metadata_end = uint64_t{offset} + size_bytes;
  return record.check_zero(kReserved2, layout::kAdapterRowBytes, "a reserved field of the adapter");
}

Result<void> check_json(const ParsedFile& file, const AdapterRow& adapter) {
  const ByteReader& json = adapter.metadata;
  size_t position = find_invalid_utf8(json);
  const char* what = " is not valid UTF-8";
  if (position == kNoPosition) {
    position = find_invalid_json(json);
    what = " is not one JSON object of at most 64 levels";
  }
  if (position == kNoPosition) return {};
  return Record(file.bytes, static_cast<uint64_t>(json.data() - file.bytes.data()))
      .refuse(Status::BAD_METADATA, 0,
              "the metadata of adapter \"" + std::string(adapter.name) + "\"" + what +
                  ", as seen at its byte " + std::to_string(position));
}

}  // namespace

Result<void> parse_adapter_rows(ParsedFile* file) {
  const uint32_t adapter_count = file->header.adapter_count;
  SHIRA_TRY(check_row_count(*file, layout::kAdapters, adapter_count, layout::kAdapterRowBytes));
  file->names.ranges.reserve(adapter_count);
  file->adapters.resize(adapter_count);
  std::unordered_set<std::string_view> names;
  uint64_t first_tensor = 0;
  uint64_t metadata_end = 0;
  for (uint32_t number = 0; number < adapter_count; ++number) {
    const Record record(file->bytes, file->section(layout::kAdapters).offset_bytes +
                                         number * layout::kAdapterRowBytes);
    AdapterRow& row = file->adapters[number];
    SHIRA_ASSIGN(row.name, take_name(record, file));
    if (!names.insert(row.name).second) {
      return record.refuse(Status::BAD_NAME, layout::name::kOffset,
                           "two adapters have the name \"" + std::string(row.name) + "\"");
    }
    row.first_tensor = record.u32(kFirstTensor);
    if (row.first_tensor != first_tensor) {
      return record.refuse(
          Status::BAD_COUNT, kFirstTensor,
          differs("the first tensor of the adapter", row.first_tensor, first_tensor));
    }
    row.tensor_count = record.u32(kTensorCount);
    if (row.tensor_count == 0) {
      return record.refuse(Status::BAD_COUNT, kTensorCount, "the adapter has no tensor");
    }
    first_tensor += row.tensor_count;
    SHIRA_TRY(parse_rest(record, &metadata_end, file, &row));
  }
  if (first_tensor == file->header.tensor_count) return {};
  return Record(file->bytes, 0)
      .refuse(Status::BAD_COUNT, layout::header::kTensorCount,
              differs("the header's tensor_count", file->header.tensor_count, first_tensor) +
                  ", the sum over the adapters");
}

Result<void> check_names_and_metadata(const ParsedFile& file) {
  SHIRA_TRY(check_covered(file, file.section(layout::kNames), file.names.end_bytes, "names"));
  const ByteReader& last = file.adapters.back().metadata;
  const SectionInfo& metadata = file.section(layout::kMetadata);
  const uint8_t* metadata_begin = file.bytes_of(metadata).data();
  SHIRA_TRY(check_covered(file, metadata,
                          static_cast<uint64_t>(last.data() - metadata_begin) + last.size(),
                          "objects"));
  for (const AdapterRow& adapter : file.adapters) SHIRA_TRY(check_json(file, adapter));
  return {};
}

Result<std::string_view> take_name(const Record& row, ParsedFile* file) {
  TakenNames& names = file->names;
  const SectionInfo& section = file->section(layout::kNames);
  const uint32_t offset = row.u32(layout::name::kOffset);
  const uint32_t size_bytes = row.u32(layout::name::kSize);
  if (size_bytes < 1 || size_bytes > layout::kMaxNameBytes) {
    return row.refuse(Status::BAD_NAME, layout::name::kSize,
                      out_of_range("the length of the name", size_bytes, 1, layout::kMaxNameBytes));
  }
  const ByteReader text = file->bytes_of(section).slice(offset, size_bytes);
  const std::string_view name(reinterpret_cast<const char*>(text.data()), text.size());
  const std::pair<uint32_t, uint32_t> range(offset, size_bytes);
  if (std::binary_search(names.ranges.begin(), names.ranges.end(), range)) return name;
  if (offset != names.end_bytes || text.size() == 0) {
    return row.refuse(Status::BAD_LAYOUT, layout::name::kOffset,
                      "the name of " + std::to_string(size_bytes) + " bytes at offset " +
                          std::to_string(offset) + " of section NAMES (" +
                          std::to_string(section.size_bytes) +
                          " bytes) is neither an earlier one nor the next, which starts at " +
                          std::to_string(names.end_bytes));
  }
  if (find_invalid_utf8(text) != kNoPosition || find_control_character(text) != kNoPosition) {
    return row.refuse_at(Status::BAD_NAME, section.offset_bytes + offset,
                         "the name is not UTF-8 without control characters");
  }
  names.ranges.push_back(range);
  names.end_bytes += size_bytes;
  return name;
}

Result<void> check_row_count(const ParsedFile& file, layout::SectionKind kind, uint64_t row_count,
                             uint64_t row_bytes) {
  const SectionInfo& section = file.section(kind);
  if (section.size_bytes == row_count * row_bytes) return {};
  return Record(file.bytes, layout::section_row(layout::section_number(kind)))
      .refuse(Status::BAD_LAYOUT, layout::section::kSize,
              differs("the size of " + section_name(section), section.size_bytes,
                      row_count * row_bytes));
}

Result<void> check_covered(const ParsedFile& file, const SectionInfo& section, uint64_t end_bytes,
                           const char* parts) {
  if (end_bytes == section.size_bytes) return {};
  return Record(file.bytes, section.offset_bytes)
      .refuse(Status::BAD_LAYOUT, end_bytes,
              section_name(section) + " has " + std::to_string(section.size_bytes - end_bytes) +
                  " bytes behind the last of its " + parts);
}

}  // namespace shira
