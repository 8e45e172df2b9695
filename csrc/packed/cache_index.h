// PackedCacheIndex: what lies where in the file that ExecuTorch packs XNNPACK weights into.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"

namespace shira {

/// One packed weight.
struct PackedCacheEntry {
  /// The key of the weights in the program's named data, followed by the bias's if it has one
  /// there.
  std::string name;
  uint64_t offset_bytes = 0;  // in the file
  uint64_t size_bytes = 0;
  uint32_t seed = 0;  // of the kernel that packed it
};

// The file: packed weights, each at a multiple of the page size, then the index and its trailer,
// all little-endian. Loading another method appends weights and a new index; what was there stays.
//   entry:   u32 name length, name, u64 offset, u64 size, u32 seed
//   trailer: u64 offset of the first entry, u32 entry count, u32 magic "CWPX", u32 version 2

/// The entries, by name. Every one lies in the file, before the index, and touches no other.
class PackedCacheIndex {
 public:
  /// Reads the index of a file of `size_bytes`. An empty file has no entries: nothing was packed
  /// into it, which is what ExecuTorch leaves when it packs into the heap. `path` is for messages.
  /// Fails with the byte at fault:
  /// - TRUNCATED: no room for the trailer, or an entry runs over the index's end.
  /// - BAD_MAGIC, UNSUPPORTED_VERSION: not such a file, or one of another ExecuTorch.
  /// - BAD_LAYOUT: an offset or size points where nothing can lie, or two entries overlap.
  /// - BAD_COUNT, TRAILING_BYTES: more entries than fit, or bytes that no entry has.
  /// - BAD_NAME: a name is empty, too long, not printable ASCII, or there twice.
  static Result<PackedCacheIndex> read(const uint8_t* bytes, uint64_t size_bytes,
                                       const std::string& path);

  const std::vector<PackedCacheEntry>& entries() const { return entries_; }

  /// The entry of this name, or null.
  const PackedCacheEntry* find(const std::string& name) const;

  /// The entries whose names begin so: [first, second) of entries(), as numbers.
  std::pair<size_t, size_t> starting_with(const std::string& prefix) const;

 private:
  std::vector<PackedCacheEntry> entries_;
};

}  // namespace shira
