// Steps 3 to 10 of docs/FORMAT.md section 13, one function each, and what they leave for the next.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "base/array.h"
#include "base/spent_bytes.h"
#include "base/thread_pool.h"
#include "format/adapter_file.h"
#include "format/adapter_index.h"
#include "format/adapter_record.h"
#include "format/header.h"
#include "format/layout.h"

namespace shira {

static_assert(SpentBytes::kUnitBytes == layout::kStreamAlignment);

/// A checked row of ADAPTERS.
struct AdapterRow {
  std::string_view name;
  uint32_t first_tensor = 0;
  uint32_t tensor_count = 0;
  bool is_bound = false;
  ByteReader metadata;
};

constexpr uint32_t kNoRow = UINT32_MAX;

/// A checked row of TENSORS.
struct TensorRow {
  uint64_t offset = 0;  // of the row in the file
  std::string_view name;
  Dtype dtype = Dtype::f32;
  uint8_t rank = 0;
  uint8_t tier = 0;
  ValueKind value_kind = ValueKind::target;
  uint32_t index_number = 0;
  uint32_t lower_row = kNoRow;  // the same tensor's in the next lower tier that has one
  uint64_t nnz = 0;
  uint64_t element_count = 0;
  uint64_t values_offset = 0;  // of `values` in the file
  ValueStream values;
};

/// The names that rows have pointed to so far (section 8).
struct TakenNames {
  std::vector<std::pair<uint32_t, uint32_t>> ranges;  // offset in NAMES and size, ascending
  uint64_t end_bytes = 0;                             // of the newest, in NAMES
};

/// What is known of a file between two steps. Views point into its bytes.
struct ParsedFile {
  ByteReader bytes;
  Header header;
  std::vector<SectionInfo> sections;
  uint32_t opened_tier_count = 0;
  std::shared_ptr<ThreadPool> pool;
  /// Of the streams that are one task for it. Memory of coded bytes is given back in whole pages,
  /// of which those at the ends of a group stay.
  uint64_t group_bytes = 0;
  bool keeps_content = true;  // else coded bytes are spent where nothing points to them for good
  TakenNames names;
  std::vector<AdapterRow> adapters;
  Array<TensorRow> rows;
  std::vector<TierIndex> tiers;  // by tier
  /// By row of TENSORS: its decoded positions. Null for derived masks and tiers not opened.
  std::vector<std::shared_ptr<const IndexList>> positions;

  const SectionInfo& section(layout::SectionKind kind) const {
    return sections[layout::section_number(kind)];
  }
  ByteReader bytes_of(const SectionInfo& section) const {
    return bytes.slice(section.offset_bytes, section.size_bytes);
  }
  /// For errors about a tensor.
  Record record_of(const TensorRow& row) const {
    Record record(bytes, row.offset);
    record.set_tensor(row.name);
    return record;
  }
  bool is_opened(const TensorRow& row) const { return row.tier < opened_tier_count; }
};

Result<void> parse_adapter_rows(ParsedFile* file);                              // step 3
Result<void> parse_tensor_rows(ParsedFile* file);                               // step 4
Result<void> check_names_and_metadata(const ParsedFile& file);                  // step 5
Result<void> parse_index_tables(const OpenOptions& options, ParsedFile* file);  // step 6
Result<void> check_agreement(const ParsedFile& file);                           // step 7
Result<void> decode_index_streams(ParsedFile* file);                            // step 8
Result<void> check_value_streams(const ParsedFile& file);                       // step 9
Result<void> check_tiers(const ParsedFile& file);                               // step 10

// --- what several steps share

/// The name that `row` points to, with the checks of section 8 but its text's being new.
Result<std::string_view> take_name(const Record& row, ParsedFile* file);

/// Section `kind` has exactly `row_count` rows of `row_bytes` bytes.
Result<void> check_row_count(const ParsedFile& file, layout::SectionKind kind, uint64_t row_count,
                             uint64_t row_bytes);

/// The index table whose SHA-256 the INDEX_REFERENCE `section` holds, of a file that was offered.
Result<std::shared_ptr<const IndexTable>> find_index_table(const ParsedFile& file,
                                                           const SectionInfo& section,
                                                           const OpenOptions& options);

/// A section whose parts were all taken has nothing behind `end_bytes` of it.
Result<void> check_covered(const ParsedFile& file, const SectionInfo& section, uint64_t end_bytes,
                           const char* parts);

}  // namespace shira
