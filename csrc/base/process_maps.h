// What the kernel says about this process's memory: a snapshot of /proc/self/maps (Linux, Android).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/array.h"
#include "base/result.h"

namespace shira {

/// One virtual memory area.
struct MemoryArea {
  uintptr_t begin = 0;
  uintptr_t end = 0;  // exclusive
  bool readable = false;
  bool writable = false;
  bool shared = false;             // MAP_SHARED ('s' in the fourth column)
  uint64_t file_offset_bytes = 0;  // of `begin`
  uint64_t device = 0;             // makedev(major, minor); 0 with inode 0 for anonymous memory
  uint64_t inode = 0;
  /// As the kernel prints it: a newline is "\012", " (deleted)" may follow. Empty for anonymous
  /// memory. Points into the snapshot and lives as long.
  std::string_view path;
};

/// The bytes [begin, end) of this process.
struct AddressRange {
  uintptr_t begin = 0;
  uintptr_t end = 0;
};

/// An immutable snapshot, ordered by address.
class ProcessMaps {
 public:
  /// Reads /proc/self/maps. IO_ERROR where there is none, OUT_OF_MEMORY.
  static Result<ProcessMaps> read();

  /// As read(), but only the areas with bytes of `ranges` are sure to be there, and their paths may
  /// be empty. Linux 6.11 and newer answer for single areas, in microseconds; a whole listing takes
  /// a time that grows with everything the process has mapped. Elsewhere this is read().
  static Result<ProcessMaps> read_near(std::vector<AddressRange> ranges);

  /// For tests: parses text in the format of /proc/self/maps; malformed lines are skipped.
  static Result<ProcessMaps> parse(std::string_view text);

  const std::vector<MemoryArea>& areas() const { return areas_; }

  /// The area that contains `address`, or nullptr.
  const MemoryArea* find(uintptr_t address) const;

 private:
  ProcessMaps() = default;
  ProcessMaps(Array<char> text, size_t text_bytes);

  Array<char> text_;  // a heap array: it stays in place when the snapshot is moved
  std::vector<MemoryArea> areas_;
};

/// sysconf(_SC_PAGESIZE): 4, 16 or 64 KiB; never assume.
size_t page_bytes();

}  // namespace shira
