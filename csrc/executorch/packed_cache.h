// PackedCache: the file in memory that XNNPACK packs a program's weights into.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "base/result.h"

namespace shira {

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

  /// Nobody, whoever has the file open, can make it shorter from now on: its pages stay.
  void keep_size() const;

 private:
  PackedCache(int descriptor, std::string path) : descriptor_(descriptor), path_(std::move(path)) {}

  int descriptor_;
  std::string path_;
};

}  // namespace shira
