// Little-endian integers at any offset of a byte range, never read outside it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/checked_math.h"

namespace shira {

/// A non-owning view of `size()` bytes. Copies freely; lives as long as the bytes do.
class ByteReader {
 public:
  ByteReader() = default;
  ByteReader(const uint8_t* bytes, size_t size_bytes) : bytes_(bytes), size_(size_bytes) {}

  const uint8_t* data() const { return bytes_; }
  size_t size() const { return size_; }

  bool contains(uint64_t offset, uint64_t size_bytes) const {
    return range_fits(offset, size_bytes, size_);
  }

  /// *value = the little-endian integer at `offset`; false, and *value untouched, when it lies
  /// outside.
  template <typename T>
  bool read(uint64_t offset, T* value) const {
    if (!contains(offset, sizeof(T))) return false;
    T result = 0;  // byte by byte is right on every host; compilers make one load of it
    for (size_t i = 0; i < sizeof(T); ++i) {
      result = static_cast<T>(result | static_cast<T>(bytes_[offset + i]) << (8 * i));
    }
    *value = result;
    return true;
  }

  /// The same for callers that know the range: 0 outside, so that a forgotten check stays harmless.
  uint8_t u8(uint64_t offset) const { return get<uint8_t>(offset); }
  uint16_t u16(uint64_t offset) const { return get<uint16_t>(offset); }
  uint32_t u32(uint64_t offset) const { return get<uint32_t>(offset); }
  uint64_t u64(uint64_t offset) const { return get<uint64_t>(offset); }

  /// The view of [offset, offset + size_bytes); empty when that is not inside.
  ByteReader slice(uint64_t offset, uint64_t size_bytes) const {
    if (!contains(offset, size_bytes)) return {};
    return {bytes_ + offset, static_cast<size_t>(size_bytes)};
  }

 private:
  template <typename T>
  T get(uint64_t offset) const {
    T value = 0;
    read(offset, &value);
    return value;
  }

  const uint8_t* bytes_ = nullptr;
  size_t size_ = 0;
};

}  // namespace shira
