// Step 1 of docs/FORMAT.md section 13: the header.
// SPDX-License-Identifier: Apache-2.0
#include "format/header.h"

#include <algorithm>
#include <cstring>

#include "base/hash.h"
#include "format/adapter_record.h"
#include "format/layout.h"
#include "format/message.h"

namespace shira {
namespace {

using namespace layout::header;

Error truncated(const Record& record, uint64_t file_bytes, uint64_t needed_bytes,
                const char* what) {
  return record.refuse(Status::TRUNCATED, file_bytes,
                       "the file has " + std::to_string(file_bytes) + " bytes, but " + what +
                           " needs " + std::to_string(needed_bytes));
}

/// What tells another kind of file from a damaged one, in the order that tells it best.
Result<void> check_identity(const Record& record, uint64_t file_bytes) {
  if (file_bytes < sizeof(layout::kMagic)) {
    return truncated(record, file_bytes, sizeof(layout::kMagic), "the magic");
  }
  if (std::memcmp(record.bytes(0), layout::kMagic, sizeof(layout::kMagic)) != 0) {
    return record.refuse(Status::BAD_MAGIC, 0,
                         "the file starts with " + to_hex(record.bytes(0), sizeof(layout::kMagic)) +
                             ", not with the .shb magic " +
                             to_hex(layout::kMagic, sizeof(layout::kMagic)));
  }
  if (file_bytes < kHeaderBytes) return truncated(record, file_bytes, kHeaderBytes, "the version");
  const uint16_t major = record.u16(kVersionMajor);
  if (major != layout::kVersionMajor) {
    return record.refuse(Status::UNSUPPORTED_VERSION, kVersionMajor,
                         differs("the major version of the format", major, layout::kVersionMajor));
  }
  if (file_bytes < layout::kHeaderBytes) {
    return truncated(record, file_bytes, layout::kHeaderBytes, "the header");
  }
  const uint32_t stored_crc = record.u32(kHeaderCrc);
  const uint32_t crc = crc32c(record.bytes(0), kHeaderCrc);
  if (crc != stored_crc) {
    return record.refuse(Status::HEADER_CHECKSUM, kHeaderCrc,
                         wrong_crc("the header", crc, stored_crc));
  }
  const uint64_t unknown = record.u64(kRequiredFeatures) & ~layout::kKnownRequiredFeatures;
  if (unknown != 0) {
    return record.refuse(Status::UNSUPPORTED_FEATURE, kRequiredFeatures,
                         "the file requires features that this reader does not know (bits " +
                             std::to_string(unknown) + ")");
  }
  return {};
}

Result<void> check_sizes(const Record& record, uint64_t file_bytes) {
  if (record.u32(kHeaderBytes) != layout::kHeaderBytes) {
    return record.refuse(Status::BAD_LAYOUT, kHeaderBytes,
                         differs("header_bytes", record.u32(kHeaderBytes), layout::kHeaderBytes));
  }
  const uint64_t declared_bytes = record.u64(kFileBytes);
  if (file_bytes != declared_bytes) {
    return record.refuse(file_bytes < declared_bytes ? Status::TRUNCATED : Status::TRAILING_BYTES,
                         kFileBytes,
                         "the file has " + std::to_string(file_bytes) +
                             " bytes, but its header declares " + std::to_string(declared_bytes));
  }
  return {};
}

Result<uint32_t> read_count(const Record& record, uint64_t field, const char* name, uint32_t low,
                            uint32_t high) {
  const uint32_t count = record.u32(field);
  if (count >= low && count <= high) return count;
  return record.refuse(Status::BAD_COUNT, field, out_of_range(name, count, low, high));
}

Result<void> read_counts(const Record& record, Header* header) {
  SHIRA_ASSIGN(header->section_count,
               read_count(record, kSectionCount, "section_count", layout::kMinSectionCount,
                          layout::kMaxSectionCount));
  SHIRA_ASSIGN(header->adapter_count,
               read_count(record, kAdapterCount, "adapter_count", 1, layout::kMaxAdapterCount));
  SHIRA_ASSIGN(header->tensor_count,
               read_count(record, kTensorCount, "tensor_count", 1, layout::kMaxTensorCount));
  const uint32_t tiers_that_fit = (header->section_count - layout::kTierSections) / 2;
  SHIRA_ASSIGN(header->tier_count, read_count(record, kTierCount, "tier_count", 1,
                                              std::min(layout::kMaxTierCount, tiers_that_fit)));
  header->section_table_crc32c = record.u32(kSectionTableCrc);
  return record.check_zero(kReserved1, kContentDigest, "a reserved field of the header");
}

Result<void> read_signature(const Record& record, Header* header) {
  const uint32_t kind = record.u32(kSignatureKind);
  if (kind > 1) {
    return record.refuse(Status::BAD_ENUM, kSignatureKind, meaningless("signature kind", kind));
  }
  header->is_signed = kind == 1;
  SHIRA_TRY(record.check_zero(kReserved2, kPublicKey, "a reserved field of the header"));
  if (!header->is_signed) {
    SHIRA_TRY(record.check_zero(kPublicKey, kReserved3, "the signature of an unsigned file"));
  }
  std::copy_n(record.bytes(kPublicKey), header->public_key.size(), header->public_key.begin());
  return record.check_zero(kReserved3, kHeaderCrc, "a reserved field of the header");
}

}  // namespace

Result<Header> read_header(ByteReader start, uint64_t file_bytes) {
  const Record record(start, 0);
  SHIRA_TRY(check_identity(record, file_bytes));
  SHIRA_TRY(check_sizes(record, file_bytes));
  Header header;
  header.version_major = record.u16(kVersionMajor);
  header.version_minor = record.u16(kVersionMinor);
  SHIRA_TRY(read_counts(record, &header));
  std::copy_n(record.bytes(kContentDigest), header.content_digest.size(),
              header.content_digest.begin());
  SHIRA_TRY(read_signature(record, &header));
  const uint64_t table_end = layout::section_row(header.section_count);
  if (file_bytes < table_end) return truncated(record, file_bytes, table_end, "the section table");
  return header;
}

}  // namespace shira
