// Steps 1 and 2 of docs/FORMAT.md section 13: the bytes of a .shb file in owned memory, and summed.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/array.h"
#include "base/file.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "format/adapter_file.h"
#include "format/header.h"

namespace shira {

/// A file whose bytes are there, and are those that its section table speaks of.
struct FileBytes {
  Array<uint8_t> bytes;
  Header header;
  std::vector<SectionInfo> sections;
  std::shared_ptr<ThreadPool> pool;  // for the steps that follow; of one thread for a small file
};

/// Reads a file, or copies memory, with the threads of `options`. Every byte is read once and only
/// the copy is looked at: a source that changes meanwhile cannot show one table to the checks of
/// the sections and another one to those of the signature. IO_ERROR, OUT_OF_MEMORY, and what the
/// two steps refuse. REQUIRES: a thread_count that a ThreadPool can have.
Result<FileBytes> read_file_bytes(const File& file, const OpenOptions& options);
Result<FileBytes> copy_file_bytes(const uint8_t* bytes, uint64_t size_bytes,
                                  const OpenOptions& options);

}  // namespace shira
