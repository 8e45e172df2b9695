// The part of step 6 of docs/FORMAT.md section 13 that finds the index section of another file.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <string>
#include <utility>

#include "base/hash.h"
#include "format/adapter_steps.h"
#include "format/message.h"

namespace shira {
namespace {

Result<std::shared_ptr<const IndexTable>> find_match(const Record& reference,
                                                     const OpenOptions& options) {
  Hash256 wanted;
  std::copy_n(reference.bytes(0), wanted.size(), wanted.begin());
  for (const std::shared_ptr<const AdapterFile>& source : options.index_sources) {
    if (!source) continue;
    for (const std::shared_ptr<const IndexTable>& table : source->index_tables()) {
      SHIRA_ASSIGN(const Hash256 digest, table->digest());
      if (digest == wanted) return table;
    }
  }
  std::string message = "the positions are in another file, whose INDEX section has the SHA-256 " +
                        to_hex(wanted.data(), wanted.size()) + "; none of the " +
                        std::to_string(options.index_sources.size()) + " files given has it";
  const auto is_spent = [](const auto& source) { return source && !source->keeps_content(); };
  const auto spent_count =
      std::count_if(options.index_sources.begin(), options.index_sources.end(), is_spent);
  if (spent_count > 0) {
    message += ", but " + std::to_string(spent_count) + " were opened without keep_content";
  }
  return reference.refuse(Status::MISSING_INDEX, 0, std::move(message));
}

}  // namespace

Result<Hash256> IndexTable::digest() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!digest_) {
    SHIRA_ASSIGN(digest_, sha256(section_.data(), section_.size()));
  }
  return *digest_;
}

Result<std::shared_ptr<const IndexTable>> find_index_table(const ParsedFile& file,
                                                           const SectionInfo& section,
                                                           const OpenOptions& options) {
  const Record table_row(file.bytes, layout::section_row(layout::index_section(section.tier)));
  if (section.size_bytes != layout::kIndexReferenceBytes) {
    return table_row.refuse(Status::BAD_LAYOUT, layout::section::kSize,
                            differs("the size of " + section_name(section), section.size_bytes,
                                    layout::kIndexReferenceBytes));
  }
  const Record reference(file.bytes, section.offset_bytes);
  SHIRA_ASSIGN(std::shared_ptr<const IndexTable> table, find_match(reference, options));
  if (table->rows.size() != section.index_count) {
    return table_row.refuse(Status::BAD_COUNT, layout::section::kIndexCount,
                            differs("index_count of " + section_name(section), section.index_count,
                                    table->rows.size()) +
                                " as in the section that it refers to");
  }
  if (file.header.tier_count == 1) return table;
  for (const IndexRow& row : table->rows) {
    if (is_derived(row.stream.codec)) {
      return reference.refuse(
          Status::BAD_ENUM, 0,
          std::string("a file of several tiers cannot refer to a derived mask (") +
              index_codec_name(row.stream.codec) + ")");
    }
  }
  return table;
}

}  // namespace shira
