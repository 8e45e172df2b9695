// The tables inside a .pte or .ptd: one pass from flatbuffer to constants.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "attach/flatbuffer.h"
#include "attach/program_file.h"
#include "attach/program_head.h"
#include "base/result.h"

namespace shira {

/// Appends to `file` the loads and every constant as the tables describe them: in their order, with
/// repetitions, and with those that have no name. REQUIRES: `bytes` has head.flatbuffer_end_bytes,
/// and file->path and file->file_bytes are set.
Result<void> read_program_tables(const ProgramHead& head, const uint8_t* bytes, ProgramFile* file);

/// The data segments, each inside the file and behind the flatbuffer; what is wrong with one is
/// kept in `buffer`. TRUNCATED when one runs past the end of the file.
Result<std::vector<FileRange>> read_segments(const ProgramHead& head, const FlatTable& root,
                                             const std::string& path, uint64_t file_bytes,
                                             Flatbuffer* buffer);

}  // namespace shira
