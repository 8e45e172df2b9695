// The header of a .shb file: what can be said before anything else is read.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <string>

#include "base/hash.h"
#include "format/adapter_parser.h"
#include "format/layout.h"
#include "format/message.h"

namespace shira {
namespace {

Error fail(Status status, uint64_t offset, std::string message) {
  return Error{status, std::move(message), {}, {}, offset};
}

Error truncated(uint64_t file_bytes, uint64_t needed_bytes, const char* what) {
  return fail(Status::TRUNCATED, file_bytes,
              "the file has " + std::to_string(file_bytes) + " bytes, but " + what + " " +
                  std::to_string(needed_bytes));
}

Result<void> check_identity(ByteReader start, uint64_t file_bytes) {
  if (file_bytes < sizeof(layout::kMagic)) {
    return truncated(file_bytes, sizeof(layout::kMagic), "the magic needs");
  }
  if (std::memcmp(start.data(), layout::kMagic, sizeof(layout::kMagic)) != 0) {
    return fail(Status::BAD_MAGIC, 0,
                "the file starts with " + to_hex(start.data(), sizeof(layout::kMagic)) +
                    ", not with the .shb magic " + to_hex(layout::kMagic, sizeof(layout::kMagic)));
  }
  if (file_bytes < layout::header::kHeaderSize) {
    return truncated(file_bytes, layout::kHeaderBytes, "the header needs");
  }
  const uint16_t major = start.u16(layout::header::kMajor);
  const uint16_t minor = start.u16(layout::header::kMinor);
  if (major != layout::kVersionMajor || minor != layout::kVersionMinor) {
    const bool wrong_major = major != layout::kVersionMajor;
    return fail(
        Status::UNSUPPORTED_VERSION, wrong_major ? layout::header::kMajor : layout::header::kMinor,
        "the file has format version " + std::to_string(major) + "." + std::to_string(minor) +
            ", this reader knows " + std::to_string(layout::kVersionMajor) + "." +
            std::to_string(layout::kVersionMinor));
  }
  if (file_bytes < layout::kHeaderBytes) {
    return truncated(file_bytes, layout::kHeaderBytes, "the header needs");
  }
  const uint32_t stored_crc = start.u32(layout::header::kHeaderCrc);
  const uint32_t crc = crc32c(start.data(), layout::header::kHeaderCrc);
  if (crc != stored_crc) {
    return fail(Status::HEADER_CHECKSUM, layout::header::kHeaderCrc,
                wrong_crc("the header", crc, stored_crc));
  }
  return {};
}

Result<void> check_sizes(ByteReader start, uint64_t file_bytes) {
  const uint32_t header_bytes = start.u32(layout::header::kHeaderSize);
  if (header_bytes != layout::kHeaderBytes) {
    return fail(Status::BAD_LAYOUT, layout::header::kHeaderSize,
                differs("header_bytes", header_bytes, layout::kHeaderBytes));
  }
  const uint64_t declared_bytes = start.u64(layout::header::kFileBytes);
  if (file_bytes < declared_bytes)
    return truncated(file_bytes, declared_bytes, "its header declares");
  if (file_bytes > declared_bytes) {
    return fail(Status::TRAILING_BYTES, declared_bytes,
                "the file has " + std::to_string(file_bytes) + " bytes, but its header declares " +
                    std::to_string(declared_bytes));
  }
  const uint64_t unknown =
      start.u64(layout::header::kRequiredFeatures) & ~layout::kKnownRequiredFeatures;
  if (unknown != 0) {
    return fail(Status::UNSUPPORTED_FEATURE, layout::header::kRequiredFeatures,
                "the file requires features that this reader does not know (bits " +
                    std::to_string(unknown) + ")");
  }
  return {};
}

Result<void> check_count(ByteReader start, uint64_t field, const char* name, uint32_t low,
                         uint32_t high) {
  const uint32_t count = start.u32(field);
  if (count >= low && count <= high) return {};
  return fail(Status::BAD_COUNT, field, out_of_range(name, count, low, high));
}

Result<void> check_reserved(ByteReader start, uint64_t begin, uint64_t end) {
  for (uint64_t offset = begin; offset < end; ++offset) {
    if (start.u8(offset) != 0) {
      return fail(Status::RESERVED_NOT_ZERO, offset, "a reserved field of the header is not zero");
    }
  }
  return {};
}

}  // namespace

Result<void> check_header(ByteReader start, uint64_t file_bytes) {
  using namespace layout::header;
  SHIRA_TRY(check_identity(start, file_bytes));
  SHIRA_TRY(check_sizes(start, file_bytes));
  SHIRA_TRY(check_count(start, kSectionCount, "section_count", layout::kSectionTotal,
                        layout::kSectionTotal));
  SHIRA_TRY(check_count(start, kAdapterCount, "adapter_count", 1, 1));
  SHIRA_TRY(check_count(start, kTensorCount, "tensor_count", 1, layout::kMaxTensorCount));
  SHIRA_TRY(check_reserved(start, kReserved1, kContentDigest));
  SHIRA_TRY(check_reserved(start, kReserved2, kHeaderCrc));
  if (file_bytes < layout::kSectionTableEnd) {
    return truncated(file_bytes, layout::kSectionTableEnd, "the section table needs");
  }
  return {};
}

}  // namespace shira
