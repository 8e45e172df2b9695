// Where the named constants of an ExecuTorch program lie in its file: .pte (inline, named) and .ptd (FlatTensor).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/result.h"

namespace shira {

/// One named constant. Constants of other dtypes than f32, f16 and bf16, or with a dim_order that is not row-major, are listed with
/// `patchable` false and the reason, so that an adapter that names them gets a clear answer.
struct ProgramTensor {
  std::string name;  // FQN
  Dtype dtype = Dtype::f32;
  std::vector<uint32_t> dims;
  uint64_t offset_bytes = 0;
  uint64_t size_bytes = 0;
  bool patchable = true;
  std::string why_not;
  std::string shares_storage_with;  // another constant at the same offset, or empty
};

/// A file's constants plus the constant segment's extent (a .pte maps it as one piece; a .ptd has one load per tensor).
struct ProgramFile {
  std::string path;
  uint64_t file_bytes = 0;
  bool is_ptd = false;
  uint64_t constants_offset_bytes = 0;  // .pte: of the constant segment
  uint64_t constants_size_bytes = 0;
  std::vector<ProgramTensor> tensors;  // sorted by name
};

/// Reads the tables of a .pte ("ET12") or .ptd ("FT01"). Everything is bounds-checked; a malformed or truncated file is
/// BAD_PROGRAM_FILE with the offset, another kind of file too. IO_ERROR when it cannot be read.
Result<ProgramFile> read_program_file(const std::string& path);

/// The same over bytes, for tests and fuzzing.
Result<ProgramFile> parse_program_file(const uint8_t* bytes, uint64_t size_bytes, const std::string& label);

}  // namespace shira
