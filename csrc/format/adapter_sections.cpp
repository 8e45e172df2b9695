// Step 2 of docs/FORMAT.md section 13: the section table, and the bytes of the sections.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "base/checked_math.h"
#include "base/hash.h"
#include "format/adapter_record.h"
#include "format/header.h"
#include "format/layout.h"
#include "format/message.h"

namespace shira {
namespace {

using namespace layout::section;

Error wrong_kind(const Record& row, uint32_t kind) {
  return row.refuse(Status::BAD_LAYOUT, kKind,
                    "a section of kind " + std::to_string(kind) + " must not stand here");
}

/// The kind that stands in row `number` of the table, and the tier.
Result<void> read_kind(const Header& header, const Record& row, uint32_t number,
                       SectionInfo* section) {
  section->kind = row.u32(kKind);
  if (number < layout::kTierSections) {
    if (section->kind != number + 1) return wrong_kind(row, section->kind);
    return {};
  }
  if (number >= layout::index_section(header.tier_count)) {
    if (section->kind < layout::kFirstOptionalKind) return wrong_kind(row, section->kind);
    return {};
  }
  section->tier = (number - layout::kTierSections) / 2;
  const bool is_values = number == layout::value_section(section->tier);
  const bool fits =
      is_values ? section->kind == layout::kValues
                : section->kind == layout::kIndex || section->kind == layout::kIndexReference;
  if (!fits) return wrong_kind(row, section->kind);
  return {};
}

Result<SectionInfo> read_row(const Header& header, const Record& row, uint32_t number,
                             uint64_t expected_offset, uint64_t file_bytes) {
  SectionInfo section;
  SHIRA_TRY(read_kind(header, row, number, &section));
  section.crc32c = row.u32(kCrc);
  section.offset_bytes = row.u64(kOffset);
  if (section.offset_bytes != expected_offset) {
    return row.refuse(
        Status::BAD_LAYOUT, kOffset,
        differs("the offset of " + section_name(section), section.offset_bytes, expected_offset));
  }
  section.size_bytes = row.u64(kSize);
  if (section.size_bytes == 0 ||
      !range_fits(section.offset_bytes, section.size_bytes, file_bytes)) {
    return row.refuse(Status::BAD_LAYOUT, kSize,
                      section_name(section) + " of " + std::to_string(section.size_bytes) +
                          " bytes at offset " + std::to_string(section.offset_bytes) +
                          " is empty or does not fit the file of " + std::to_string(file_bytes) +
                          " bytes");
  }
  if (row.u32(kTier) != section.tier) {
    return row.refuse(
        Status::BAD_LAYOUT, kTier,
        differs("the tier of " + section_name(section), row.u32(kTier), section.tier));
  }
  section.index_count = row.u32(kIndexCount);
  const bool has_index = section.kind == layout::kIndex || section.kind == layout::kIndexReference;
  const uint32_t low = has_index ? 1 : 0;
  const uint32_t high = has_index ? layout::kMaxIndexCount : 0;
  if (section.index_count < low || section.index_count > high) {
    return row.refuse(
        Status::BAD_COUNT, kIndexCount,
        out_of_range("index_count of " + section_name(section), section.index_count, low, high));
  }
  std::copy_n(row.bytes(kSha256), section.sha256.size(), section.sha256.begin());
  return section;
}

uint64_t end_of(const SectionInfo& section) { return section.offset_bytes + section.size_bytes; }

}  // namespace

std::string section_name(const SectionInfo& section) {
  switch (section.kind) {
    case layout::kAdapters:
      return "section ADAPTERS";
    case layout::kTensors:
      return "section TENSORS";
    case layout::kNames:
      return "section NAMES";
    case layout::kMetadata:
      return "section METADATA";
    case layout::kIndex:
      return "section INDEX of tier " + std::to_string(section.tier);
    case layout::kValues:
      return "section VALUES of tier " + std::to_string(section.tier);
    case layout::kIndexReference:
      return "section INDEX_REFERENCE of tier " + std::to_string(section.tier);
    default:
      return "the optional section of kind " + std::to_string(section.kind);
  }
}

Result<std::vector<SectionInfo>> read_section_table(const Header& header, ByteReader start,
                                                    uint64_t file_bytes) {
  const uint64_t table_end = layout::section_row(header.section_count);
  const uint32_t crc =
      crc32c(start.data() + layout::kHeaderBytes, table_end - layout::kHeaderBytes);
  if (crc != header.section_table_crc32c) {
    return Record(start, 0).refuse(
        Status::HEADER_CHECKSUM, layout::header::kSectionTableCrc,
        wrong_crc("the section table", crc, header.section_table_crc32c));
  }
  std::vector<SectionInfo> sections;
  uint64_t end = table_end;
  for (uint32_t number = 0; number < header.section_count; ++number) {
    const Record row(start, layout::section_row(number));
    SHIRA_ASSIGN(
        const SectionInfo section,
        read_row(header, row, number, align_up(end, layout::kSectionAlignment), file_bytes));
    sections.push_back(section);
    end = end_of(section);
  }
  if (end != file_bytes) {
    return Record(start, layout::section_row(header.section_count - 1))
        .refuse(Status::BAD_LAYOUT, kSize, differs("the end of the last section", end, file_bytes));
  }
  return sections;
}

Result<void> check_section_bytes(ByteReader file, const std::vector<SectionInfo>& sections,
                                 const std::vector<uint32_t>& crc32c_sums) {
  uint64_t end = layout::section_row(static_cast<uint32_t>(sections.size()));
  for (uint32_t number = 0; number < sections.size(); ++number) {
    const SectionInfo& section = sections[number];
    const Record row(file, layout::section_row(number));
    SHIRA_TRY(row.check_zero_at(end, section.offset_bytes, "the padding between sections"));
    if (crc32c_sums[number] != section.crc32c) {
      return row.refuse(Status::SECTION_CHECKSUM, kCrc,
                        wrong_crc(section_name(section), crc32c_sums[number], section.crc32c));
    }
    end = end_of(section);
  }
  return {};
}

}  // namespace shira
