// The tables inside a .pte or .ptd: one pass from flatbuffer to constants.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "attach/program_file.h"
#include "base/result.h"

namespace shira {

/// What precedes the tables: the file's kind, where the flatbuffer ends and the segments begin.
struct ProgramHead {
  bool is_ptd = false;
  uint64_t flatbuffer_end_bytes = 0;
  uint64_t segments_offset_bytes = 0;
};

/// Appends to `file` the loads and every constant as the tables describe them: in their order, with
/// repetitions, and with those that have no name. REQUIRES: `bytes` has head.flatbuffer_end_bytes,
/// and file->path and file->file_bytes are set.
Result<void> read_program_tables(const ProgramHead& head, const uint8_t* bytes, ProgramFile* file);

/// BAD_PROGRAM_FILE at `offset_bytes`.
Error bad_program_file(const std::string& path, uint64_t offset_bytes, std::string problem);

/// TRUNCATED: the file is shorter than the `needed_bytes` it declares.
Error truncated_program_file(const std::string& path, uint64_t needed_bytes, uint64_t file_bytes);

}  // namespace shira
