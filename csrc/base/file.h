// File: a regular file opened for reading, and its bytes at any place.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "base/result.h"

namespace shira {

/// What tells whether a file was rewritten in place.
struct FileState {
  uint64_t size_bytes = 0;
  int64_t modified_s = 0;
  int64_t modified_ns = 0;

  bool operator==(const FileState& other) const {
    return size_bytes == other.size_bytes && modified_s == other.modified_s &&
           modified_ns == other.modified_ns;
  }
};

/// Holding it open keeps its inode from being reused by another file, whatever happens to the path.
/// Errors carry the path.
class File {
 public:
  /// IO_ERROR when it cannot be opened or is not a regular file; a FIFO is not waited for. Paths
  /// are bytes, as the system takes them; a URL is none.
  static Result<File> open(const std::string& path);

  ~File();
  File(File&& other) noexcept
      : descriptor_(std::exchange(other.descriptor_, -1)), path_(std::move(other.path_)) {}
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  File& operator=(File&&) = delete;

  int descriptor() const { return descriptor_; }
  const std::string& path() const { return path_; }

  Result<FileState> state() const;

  /// Reads `size_bytes` bytes from `offset_bytes` on into `out`, or as many as the file has there;
  /// returns how many. IO_ERROR.
  Result<uint64_t> read_at(uint64_t offset_bytes, uint64_t size_bytes, uint8_t* out) const;

  /// How many of these bytes are not in the page cache, in whole pages at most. 0 where the system
  /// does not tell (Linux tells who may write the file, or owns it).
  uint64_t count_cold_bytes(uint64_t offset_bytes, uint64_t size_bytes) const;

  /// OUT_OF_MEMORY when `size_bytes` are more than half of the machine's memory: the system would
  /// grant them, and take them from everybody while they are read. A sparse file costs its maker
  /// nothing.
  Result<void> check_fits_memory(uint64_t size_bytes) const;

  Error error(Status status, std::string message) const {
    return Error{status, std::move(message), path_, {}, kNoOffset};
  }

  /// `what` and the system's words for `code` (an errno): OUT_OF_MEMORY or IO_ERROR.
  Error system_error(const char* what, int code) const;

 private:
  File(int descriptor, std::string path) : descriptor_(descriptor), path_(std::move(path)) {}

  int descriptor_;
  std::string path_;
};

}  // namespace shira
