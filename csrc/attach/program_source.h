// A .pte or .ptd as its readers need it: the flatbuffer in memory, other parts on request.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "attach/flatbuffer.h"
#include "attach/program_file.h"
#include "attach/program_head.h"
#include "attach/program_weights.h"
#include "base/array.h"
#include "base/byte_reader.h"
#include "base/file.h"
#include "base/result.h"

namespace shira {

/// One file of a program, with its segments checked.
class ProgramSource {
 public:
  /// Errors are those of read_program_file.
  static Result<std::unique_ptr<ProgramSource>> open(const std::string& path);

  /// Over a whole file's bytes, which outlive it.
  static Result<std::unique_ptr<ProgramSource>> over(const ByteReader& bytes,
                                                     const std::string& label);

  ProgramSource(const ProgramSource&) = delete;
  ProgramSource& operator=(const ProgramSource&) = delete;

  const std::string& path() const { return path_; }
  uint64_t file_bytes() const { return file_bytes_; }
  uint64_t flatbuffer_bytes() const { return head_.flatbuffer_end_bytes; }
  bool is_ptd() const { return head_.is_ptd; }
  Flatbuffer& buffer() { return buffer_; }
  const FlatTable& root() const { return root_; }
  const std::vector<FileRange>& segments() const { return segments_; }

  /// Bytes of the file. TRUNCATED when it has become shorter, IO_ERROR, OUT_OF_MEMORY.
  Result<Array<uint8_t>> read(const FileRange& range) const;

  /// BAD_PROGRAM_FILE with the first problem of the flatbuffer, if there was one.
  Result<void> check() const;

  /// All constants, those without a name among them, each as often as the file describes it.
  /// BAD_PROGRAM_FILE.
  Result<std::vector<ProgramTensor>> constants() const;

 private:
  ProgramSource(std::string path, std::optional<File> file)
      : path_(std::move(path)), file_(std::move(file)) {}
  Result<void> read_root(const ByteReader& flatbuffer);

  const std::string path_;
  const std::optional<File> file_;
  ProgramHead head_;
  uint64_t file_bytes_ = 0;
  Array<uint8_t> owned_;  // the flatbuffer of a file
  ByteReader bytes_;      // all of what is not a file
  Flatbuffer buffer_{nullptr, 0};
  FlatTable root_;
  std::vector<FileRange> segments_;
};

/// What the files of a program give a name to, apart from inline constants.
class NamedData {
 public:
  struct Entry {
    std::string_view key;  // in the flatbuffer of its file
    WeightBytes bytes;
    FlatTable layout;  // of a .ptd's tensors; absent for blobs
  };

  /// Adds those of file number `file_index`; its buffer keeps what is wrong with them.
  void add(uint32_t file_index, ProgramSource* source);

  /// To be called after the last add().
  void sort();

  /// Null when there is none. Of several with one key, that of the first file.
  const Entry* find(std::string_view key) const;

 private:
  std::vector<Entry> entries_;
};

}  // namespace shira
