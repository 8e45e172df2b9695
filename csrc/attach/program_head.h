// The start of a .pte or .ptd: its kind, where its flatbuffer ends and its segments begin.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "base/array.h"
#include "base/byte_reader.h"
#include "base/file.h"
#include "base/result.h"

namespace shira {

struct ProgramHead {
  bool is_ptd = false;
  uint64_t flatbuffer_end_bytes = 0;
  uint64_t segments_offset_bytes = 0;
};

/// `head`: the first bytes of a file of `file_bytes`, or all of them. BAD_PROGRAM_FILE with the
/// offset when it is of another kind; TRUNCATED when its flatbuffer does not fit in it.
Result<ProgramHead> parse_program_head(const ByteReader& head, uint64_t file_bytes,
                                       const std::string& path);

/// A file's flatbuffer, with what lies in front of it; nothing in it is checked yet.
struct ProgramTables {
  ProgramHead head;
  uint64_t file_bytes = 0;
  Array<uint8_t> flatbuffer;  // [0, head.flatbuffer_end_bytes) of the file
};

/// As parse_program_head(), and IO_ERROR, OUT_OF_MEMORY.
Result<ProgramTables> load_program_tables(const File& file);

/// BAD_PROGRAM_FILE at `offset_bytes`.
Error bad_program_file(const std::string& path, uint64_t offset_bytes, std::string problem);

/// TRUNCATED: the file is shorter than the `needed_bytes` it declares.
Error truncated_program_file(const std::string& path, uint64_t needed_bytes, uint64_t file_bytes);

}  // namespace shira
