// The rules of docs/FORMAT.md for sections, the adapter's row, names and metadata.
// SPDX-License-Identifier: Apache-2.0
#include "format/adapter_parser.h"

#include <algorithm>
#include <new>
#include <utility>

#include "base/checked_math.h"
#include "format/layout.h"
#include "format/message.h"
#include "format/text.h"

namespace shira {

AdapterParser::AdapterParser(AdapterFile* file)
    : file_(*file), bytes_(file->bytes_.data(), file->bytes_.size()) {}

Result<std::shared_ptr<const AdapterFile>> AdapterParser::parse(Array<uint8_t> bytes,
                                                                const std::string& label) {
  std::shared_ptr<AdapterFile> file(new (std::nothrow) AdapterFile());
  if (!file) return Error{Status::OUT_OF_MEMORY, "no memory for the adapter"};
  file->path_ = label;
  file->bytes_ = std::move(bytes);
  SHIRA_TRY(AdapterParser(file.get()).parse_all());
  return std::shared_ptr<const AdapterFile>(std::move(file));
}

Result<void> AdapterParser::parse_all() {
  SHIRA_TRY(check_header(bytes_, bytes_.size()));
  file_.version_major_ = bytes_.u16(layout::header::kMajor);
  file_.version_minor_ = bytes_.u16(layout::header::kMinor);
  std::copy_n(bytes_.data() + layout::header::kContentDigest, file_.content_digest_.size(),
              file_.content_digest_.begin());
  SHIRA_TRY(parse_section_table());
  name_end_ = section(layout::kNames).offset_bytes;
  index_end_ = section(layout::kIndex).offset_bytes;
  value_end_ = section(layout::kValues).offset_bytes;
  SHIRA_TRY(parse_adapter_row());
  SHIRA_TRY(parse_tensor_table());
  return parse_metadata();
}

// --- sections

Result<void> AdapterParser::parse_section_table() {
  const uint64_t table_bytes = layout::kSectionTableEnd - layout::kHeaderBytes;
  const uint32_t stored_crc = bytes_.u32(layout::header::kSectionTableCrc);
  const uint32_t crc = crc32c(bytes_.data() + layout::kHeaderBytes, table_bytes);
  if (crc != stored_crc) {
    return fail(Status::HEADER_CHECKSUM, layout::header::kSectionTableCrc,
                wrong_crc("the section table", crc, stored_crc));
  }
  file_.sections_.resize(layout::kSectionTotal);
  uint64_t end = layout::kSectionTableEnd;
  for (uint32_t i = 0; i < layout::kSectionTotal; ++i) {
    SHIRA_TRY(check_section_row(i, align_up(end, layout::kSectionAlignment)));
    end = section_end(i);
  }
  if (end != bytes_.size()) {
    return fail(Status::BAD_LAYOUT, layout::section_row(layout::kValues) + layout::section::kSize,
                differs("the end of the last section", end, bytes_.size()));
  }
  for (uint32_t i = 0; i < layout::kSectionTotal; ++i) SHIRA_TRY(check_section_bytes(i));
  return {};
}

Result<void> AdapterParser::check_section_row(uint32_t section_index, uint64_t expected_offset) {
  const uint64_t row = layout::section_row(section_index);
  SectionInfo& info = file_.sections_[section_index];
  info.kind = bytes_.u32(row + layout::section::kKind);
  info.crc32c = bytes_.u32(row + layout::section::kCrc);
  info.offset_bytes = bytes_.u64(row + layout::section::kOffset);
  info.size_bytes = bytes_.u64(row + layout::section::kSize);
  std::copy_n(bytes_.data() + row + layout::section::kSha256, info.sha256.size(),
              info.sha256.begin());
  const char* name = layout::kSectionNames[section_index];
  if (info.kind != section_index + 1) {
    return fail(Status::BAD_LAYOUT, row + layout::section::kKind,
                differs("the section's kind", info.kind, section_index + 1) + " (" + name + ")");
  }
  if (info.offset_bytes != expected_offset) {
    return fail(
        Status::BAD_LAYOUT, row + layout::section::kOffset,
        differs(std::string("the offset of section ") + name, info.offset_bytes, expected_offset));
  }
  if (info.size_bytes == 0 || !range_fits(info.offset_bytes, info.size_bytes, bytes_.size())) {
    return fail(Status::BAD_LAYOUT, row + layout::section::kSize,
                std::string("section ") + name + " of " + std::to_string(info.size_bytes) +
                    " bytes at offset " + std::to_string(info.offset_bytes) +
                    " is empty or does not fit the file of " + std::to_string(bytes_.size()) +
                    " bytes");
  }
  return check_zero(row + layout::section::kReserved, row + layout::section::kSha256,
                    "a reserved field of the section table");
}

Result<void> AdapterParser::check_section_bytes(uint32_t section_index) {
  const SectionInfo& info = section(section_index);
  const uint64_t padding_begin =
      section_index == 0 ? layout::kSectionTableEnd : section_end(section_index - 1);
  SHIRA_TRY(check_zero(padding_begin, info.offset_bytes, "the padding between sections"));
  const uint32_t crc = crc32c(bytes_.data() + info.offset_bytes, info.size_bytes);
  if (crc == info.crc32c) return {};
  return fail(
      Status::SECTION_CHECKSUM, layout::section_row(section_index) + layout::section::kCrc,
      wrong_crc(std::string("section ") + layout::kSectionNames[section_index], crc, info.crc32c));
}

// --- adapter and metadata

Result<void> AdapterParser::parse_adapter_row() {
  SHIRA_TRY(check_row_count(layout::kAdapters, 1, layout::kAdapterRowBytes));
  const uint64_t row = section(layout::kAdapters).offset_bytes;
  SHIRA_ASSIGN(file_.name_, take_name(row));
  const uint32_t first_tensor = bytes_.u32(row + layout::adapter::kFirstTensor);
  if (first_tensor != 0) {
    return fail(Status::BAD_COUNT, row + layout::adapter::kFirstTensor,
                differs("the first tensor of the adapter", first_tensor, 0));
  }
  const uint32_t tensor_count = bytes_.u32(row + layout::adapter::kTensorCount);
  const uint32_t header_count = bytes_.u32(layout::header::kTensorCount);
  if (tensor_count != header_count) {
    return fail(Status::BAD_COUNT, row + layout::adapter::kTensorCount,
                differs("the adapter's tensor count", tensor_count, header_count));
  }
  const uint32_t flags = bytes_.u32(row + layout::adapter::kFlags);
  if ((flags & ~layout::adapter::kFlagBound) != 0) {
    return fail(Status::RESERVED_NOT_ZERO, row + layout::adapter::kFlags,
                "reserved flags of the adapter are set (" + std::to_string(flags) + ")");
  }
  file_.bound_ = flags == layout::adapter::kFlagBound;
  return check_zero(row + layout::adapter::kReserved, row + layout::kAdapterRowBytes,
                    "a reserved field of the adapter");
}

Result<void> AdapterParser::parse_metadata() {
  const SectionInfo& info = section(layout::kMetadata);
  if (info.size_bytes < 2 || info.size_bytes > layout::kMaxMetadataBytes) {
    return fail(
        Status::BAD_METADATA, layout::section_row(layout::kMetadata) + layout::section::kSize,
        out_of_range("the size of the metadata", info.size_bytes, 2, layout::kMaxMetadataBytes));
  }
  const ByteReader json = bytes_.slice(info.offset_bytes, info.size_bytes);
  size_t position = find_invalid_utf8(json);
  if (position != kNoPosition) {
    return fail(Status::BAD_METADATA, info.offset_bytes + position,
                "the metadata is not valid UTF-8 here");
  }
  position = find_invalid_json(json);
  if (position != kNoPosition) {
    return fail(Status::BAD_METADATA, info.offset_bytes + position,
                "the metadata is not one JSON object: it breaks the grammar (or is nested more "
                "than " +
                    std::to_string(kMaxJsonDepth) + " deep) here");
  }
  file_.metadata_.assign(reinterpret_cast<const char*>(json.data()), json.size());
  return {};
}

// --- what several rules share

Result<std::string> AdapterParser::take_name(uint64_t row) {
  const uint64_t offset_field = row + layout::tensor::kNameOffset;
  const uint64_t size_field = row + layout::tensor::kNameBytes;
  const uint32_t size_bytes = bytes_.u32(size_field);
  const uint64_t section_begin = section(layout::kNames).offset_bytes;
  if (bytes_.u32(offset_field) != name_end_ - section_begin) {
    return fail(Status::BAD_LAYOUT, offset_field,
                differs("the name's offset", bytes_.u32(offset_field), name_end_ - section_begin));
  }
  if (size_bytes < 1 || size_bytes > layout::kMaxNameBytes) {
    return fail(Status::BAD_NAME, size_field,
                out_of_range("the length of the name", size_bytes, 1, layout::kMaxNameBytes));
  }
  if (!range_fits(name_end_, size_bytes, section_end(layout::kNames))) {
    return fail(Status::BAD_LAYOUT, size_field,
                "the name of " + std::to_string(size_bytes) + " bytes leaves section NAMES");
  }
  const ByteReader name = bytes_.slice(name_end_, size_bytes);
  const size_t position = std::min(find_invalid_utf8(name), find_control_character(name));
  if (position != kNoPosition) {
    return fail(Status::BAD_NAME, name_end_ + position,
                "the name is not UTF-8 without control characters");
  }
  name_end_ += size_bytes;
  return std::string(reinterpret_cast<const char*>(name.data()), name.size());
}

Result<void> AdapterParser::check_covered(uint32_t section_index, uint64_t end,
                                          const char* what) const {
  if (end == section_end(section_index)) return {};
  return fail(Status::BAD_LAYOUT, end,
              std::to_string(section_end(section_index) - end) + " bytes of section " +
                  layout::kSectionNames[section_index] + " come after the end of " + what);
}

Result<void> AdapterParser::check_row_count(uint32_t section_index, uint64_t row_count,
                                            uint64_t row_bytes) const {
  const uint64_t size_bytes = section(section_index).size_bytes;
  if (size_bytes == row_count * row_bytes) return {};
  return fail(Status::BAD_LAYOUT, layout::section_row(section_index) + layout::section::kSize,
              differs(std::string("the size of section ") + layout::kSectionNames[section_index],
                      size_bytes, row_count * row_bytes));
}

Result<void> AdapterParser::check_zero(uint64_t begin, uint64_t end, const char* what) const {
  for (uint64_t offset = begin; offset < end; ++offset) {
    if (bytes_.u8(offset) != 0) {
      return fail(Status::RESERVED_NOT_ZERO, offset, std::string(what) + " is not zero");
    }
  }
  return {};
}

const SectionInfo& AdapterParser::section(uint32_t section_index) const {
  return file_.sections_[section_index];
}

uint64_t AdapterParser::section_end(uint32_t section_index) const {
  return section(section_index).offset_bytes + section(section_index).size_bytes;
}

Error AdapterParser::fail(Status status, uint64_t offset_bytes, std::string message) const {
  return Error{status, std::move(message), {}, tensor_name_, offset_bytes};
}

}  // namespace shira
