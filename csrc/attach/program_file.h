// Where the named constants of an ExecuTorch program lie in its file: .pte (inline) and .ptd
// (FlatTensor). SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/file.h"
#include "base/result.h"

namespace shira {

/// [offset_bytes, offset_bytes + size_bytes) of a file.
struct FileRange {
  uint64_t offset_bytes = 0;
  uint64_t size_bytes = 0;

  bool operator==(const FileRange& other) const {
    return offset_bytes == other.offset_bytes && size_bytes == other.size_bytes;
  }
  uint64_t end_bytes() const { return offset_bytes + size_bytes; }
};

/// One named constant. Constants that no adapter can patch are listed with `patchable` false and
/// the reason, so that an adapter that names them gets a clear answer: another dtype than f32, f16
/// and bf16, elements not in row-major order, one name for two constants, bytes partly another's.
struct ProgramTensor {
  std::string name;  // FQN
  Dtype dtype = Dtype::f32;
  std::vector<uint32_t> dims;
  uint64_t offset_bytes = 0;
  uint64_t size_bytes = 0;
  FileRange load;  // what the loader maps in one piece: a .pte's constant segment, a .ptd's tensor
  bool patchable = true;
  std::string why_not;
  std::string shares_storage_with;  // another constant with exactly these bytes, or empty

  uint64_t end_bytes() const { return offset_bytes + size_bytes; }
  bool same_bytes_as(const ProgramTensor& other) const {
    return offset_bytes == other.offset_bytes && size_bytes == other.size_bytes;
  }
};

/// A file's named constants. Every range lies inside the file.
struct ProgramFile {
  std::string path;
  uint64_t file_bytes = 0;
  bool is_ptd = false;
  uint64_t constants_offset_bytes = 0;  // a .pte's constant segment
  uint64_t constants_size_bytes = 0;
  /// Everything that a loader may map in one piece, one item per load: the flatbuffer, and each
  /// segment of a .pte or each named constant of a .ptd.
  std::vector<FileRange> loads;
  std::vector<ProgramTensor> tensors;  // sorted by name
};

/// Reads the tables of a .pte ("ET12") or .ptd ("FT01"); the weights themselves are not read.
/// BAD_PROGRAM_FILE with the offset when it is malformed or of another kind, TRUNCATED when it is
/// shorter than it declares, IO_ERROR when it cannot be read.
Result<ProgramFile> read_program_file(const std::string& path);

/// The same for an open file.
Result<ProgramFile> read_program_file(const File& file);

/// The same over a whole file's bytes, for tests and fuzzing.
Result<ProgramFile> parse_program_file(const uint8_t* bytes, uint64_t size_bytes,
                                       const std::string& label);

}  // namespace shira
