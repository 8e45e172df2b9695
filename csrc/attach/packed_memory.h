// PackedMemory: the file in memory that a delegate has packed weights into, mapped for stores.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>

#include "base/process_maps.h"
#include "base/result.h"

namespace shira {

/// A shared mapping of our own beside the delegate's: what is stored here is what the delegate
/// computes with, at any address and whatever protection it has mapped the file with. A process
/// that was forked does not have it, since a store there would change the parent's weights.
class PackedMemory {
 public:
  /// Of the whole memfd. OUT_OF_MEMORY, IO_ERROR.
  static Result<std::shared_ptr<PackedMemory>> map(int descriptor);

  ~PackedMemory();
  PackedMemory(const PackedMemory&) = delete;
  PackedMemory& operator=(const PackedMemory&) = delete;

  uint8_t* data() const { return data_; }
  uint64_t size_bytes() const { return size_bytes_; }

  /// DETACHED or READ_ONLY when [data, data + size_bytes) is not this mapping any more. REQUIRES:
  /// `maps` has its areas.
  Result<void> check(const ProcessMaps& maps, const uint8_t* data, uint64_t size_bytes) const;

 private:
  PackedMemory(uint8_t* data, uint64_t size_bytes, uint64_t device, uint64_t inode);

  const pid_t process_;
  uint8_t* const data_;
  const uint64_t size_bytes_;
  const uint64_t device_;
  const uint64_t inode_;
};

}  // namespace shira
