// The start of a .pte or .ptd: its kind and its extended header.
// SPDX-License-Identifier: Apache-2.0
#include "attach/program_head.h"

#include <cstring>
#include <utility>

#include "base/checked_math.h"

namespace shira {
namespace {

constexpr size_t kHeadBytes = 64;                    // holds either header, with room to grow
constexpr uint64_t kMaxFlatbufferBytes = INT32_MAX;  // its offsets are signed, of 32 bits

Result<void> check_flatbuffer_size(const ProgramHead& head, uint64_t offset_bytes,
                                   const std::string& path) {
  if (head.flatbuffer_end_bytes <= kMaxFlatbufferBytes) return {};
  return bad_program_file(
      path, offset_bytes,
      "the flatbuffer ends at byte " + std::to_string(head.flatbuffer_end_bytes) +
          ", and a flatbuffer has at most " + std::to_string(kMaxFlatbufferBytes) + " bytes");
}

}  // namespace

Result<ProgramHead> parse_program_head(const ByteReader& head, uint64_t file_bytes,
                                       const std::string& path) {
  constexpr uint64_t kIdentifier = 4;
  constexpr uint64_t kHeader = 8;
  const auto has = [&head](uint64_t offset, const char* text) {
    return head.contains(offset, 4) && memcmp(head.data() + offset, text, 4) == 0;
  };
  ProgramHead result;
  result.is_ptd = has(kIdentifier, "FT01");
  if (!result.is_ptd && !has(kIdentifier, "ET12")) {
    return bad_program_file(path, kIdentifier,
                            "the file is neither a .pte (ET12) nor a .ptd (FT01)");
  }
  if (!result.is_ptd && !has(kHeader, "eh00")) {
    // A .pte without segments has no such header; with segments it would be refused below.
    result.flatbuffer_end_bytes = file_bytes;
    SHIRA_TRY(check_flatbuffer_size(result, kIdentifier, path));
    return result;
  }
  // FH01: magic, length, flatbuffer offset and size, segment offset and size. eh00: magic, length,
  // flatbuffer size, segment offset; a longer header has more fields behind.
  const uint32_t needed_bytes = result.is_ptd ? 40 : 24;
  if (!has(kHeader, result.is_ptd ? "FH01" : "eh00") || head.u32(kHeader + 4) < needed_bytes ||
      !head.contains(kHeader, needed_bytes)) {
    return bad_program_file(
        path, kHeader,
        "the extended header that says where the segments are is missing or too short");
  }
  const uint64_t start_bytes = result.is_ptd ? head.u64(kHeader + 8) : 0;
  const uint64_t sizes = kHeader + (result.is_ptd ? 16 : 8);
  result.segments_offset_bytes = head.u64(sizes + 8);
  if (!checked_add(start_bytes, head.u64(sizes), &result.flatbuffer_end_bytes)) {
    return bad_program_file(path, sizes, "the size of the flatbuffer overflows");
  }
  if (result.flatbuffer_end_bytes > file_bytes) {
    return truncated_program_file(path, result.flatbuffer_end_bytes, file_bytes);
  }
  SHIRA_TRY(check_flatbuffer_size(result, sizes, path));
  return result;
}

Result<ProgramTables> load_program_tables(const File& file) {
  SHIRA_ASSIGN(const FileState state, file.state());
  uint8_t head_bytes[kHeadBytes];
  SHIRA_ASSIGN(const uint64_t head_size, file.read_at(0, kHeadBytes, head_bytes));
  ProgramTables tables;
  tables.file_bytes = state.size_bytes;
  SHIRA_ASSIGN(tables.head,
               parse_program_head(ByteReader(head_bytes, static_cast<size_t>(head_size)),
                                  state.size_bytes, file.path()));
  SHIRA_TRY(file.check_fits_memory(tables.head.flatbuffer_end_bytes));
  SHIRA_ASSIGN(tables.flatbuffer,
               Array<uint8_t>::make(static_cast<size_t>(tables.head.flatbuffer_end_bytes)));
  SHIRA_ASSIGN(const uint64_t got,
               file.read_at(0, tables.head.flatbuffer_end_bytes, tables.flatbuffer.data()));
  if (got != tables.head.flatbuffer_end_bytes)
    return truncated_program_file(file.path(), tables.head.flatbuffer_end_bytes, got);
  return tables;
}

Error bad_program_file(const std::string& path, uint64_t offset_bytes, std::string problem) {
  return Error{Status::BAD_PROGRAM_FILE, std::move(problem), path, {}, offset_bytes};
}

Error truncated_program_file(const std::string& path, uint64_t needed_bytes, uint64_t file_bytes) {
  return Error{Status::TRUNCATED,
               "the file declares " + std::to_string(needed_bytes) + " bytes and has " +
                   std::to_string(file_bytes),
               path,
               {},
               file_bytes};
}

}  // namespace shira
