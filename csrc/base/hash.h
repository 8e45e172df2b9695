// The two hashes of the core: CRC32C for file integrity and XXH3-128 for identity of weights.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace shira {

/// CRC32C (Castagnoli, RFC 3720) of `bytes`; pass the result of the previous call as `crc` to continue.
uint32_t crc32c(const void* bytes, size_t size_bytes, uint32_t crc = 0);

/// XXH3 128-bit digest in canonical (big-endian) byte order, as python-xxhash's xxh3_128_digest gives it.
using Hash128 = std::array<uint8_t, 16>;

std::string to_hex(const uint8_t* bytes, size_t size_bytes);

/// Streaming XXH3-128 with seed 0. Creation cannot fail: the state lives inside the object.
class Hasher128 {
 public:
  Hasher128();
  void update(const void* bytes, size_t size_bytes);
  Hash128 digest() const;

 private:
  alignas(64) unsigned char state_[576];  // XXH3_state_t, checked by a static_assert in hash.cpp
};

Hash128 hash128(const void* bytes, size_t size_bytes);

}  // namespace shira
