// PackedCache: the file in memory that XNNPACK packs a program's weights into.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace shira {

/// One packed weight. The name is what XNNPACK calls it: the SHA-256 of the unpacked weight in
/// lower-case hex, for some layouts followed by that of the bias.
struct PackedEntry {
  std::string name;
  uint64_t offset_bytes = 0;  // in the file
  uint64_t size_bytes = 0;
  uint32_t seed = 0;  // stands for the packing function
};

/// A memfd, given to the XNNPACK delegate as its load-time option "packed_cache_path". It belongs
/// to one program: the delegate looks packed weights up by name alone, so that a second program on
/// the same file would be handed what was patched for the first.
class PackedCache {
 public:
  /// OUT_OF_MEMORY, or NOT_SUPPORTED where the system has no memfd.
  static Result<PackedCache> make();

  ~PackedCache();
  PackedCache(PackedCache&& other) noexcept;
  PackedCache(const PackedCache&) = delete;
  PackedCache& operator=(const PackedCache&) = delete;
  PackedCache& operator=(PackedCache&&) = delete;

  int descriptor() const { return descriptor_; }

  /// For the delegate, which opens it by itself. It tells caches apart by their path, and the
  /// number in this one is used again: nothing that was loaded with it may outlive this object.
  const std::string& path() const { return path_; }

  /// What the delegate has written so far. Empty when it has packed nothing here: weights without a
  /// name, and all of them where the processor lacks the instructions, stay in the heap.
  /// BAD_PROGRAM_FILE when the index is not one of the version that is known here.
  Result<std::vector<PackedEntry>> read_index() const;

 private:
  PackedCache(int descriptor, std::string path) : descriptor_(descriptor), path_(std::move(path)) {}

  int descriptor_;
  std::string path_;
};

}  // namespace shira
