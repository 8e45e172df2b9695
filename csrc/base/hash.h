// The two hashes of the core: CRC32C for file integrity and XXH3-128 for identity of weights.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace shira {

/// CRC32C (Castagnoli, RFC 3720) of `bytes`; pass the result of the previous call as `crc` to
/// continue.
uint32_t crc32c(const void* bytes, size_t size_bytes, uint32_t crc = 0);

/// That of `first` and `second` one after the other, where `second_bytes` is the size of the
/// latter.
uint32_t crc32c_combine(uint32_t first_crc, uint32_t second_crc, uint64_t second_bytes);

/// Every way to compute it that was compiled in, best first; crc32c() uses the first supported one.
/// `update` works on the raw register, without the initial and final inversion.
using Crc32cUpdate = uint32_t (*)(uint32_t crc, const uint8_t* bytes, size_t size_bytes);
struct Crc32cVariant {
  const char* name;  // "sse4.2", "armv8-crc", "table"
  bool supported;    // by the CPU this runs on
  Crc32cUpdate update;
};
std::vector<Crc32cVariant> crc32c_variants();

/// XXH3 128-bit digest in canonical (big-endian) byte order, as python-xxhash's xxh3_128_digest
/// gives it.
using Hash128 = std::array<uint8_t, 16>;

std::string to_hex(const uint8_t* bytes, size_t size_bytes);

/// Streaming XXH3-128 with seed 0. Creation cannot fail: the state lives inside the object.
class Hasher128 {
 public:
  Hasher128();
  void update(const void* bytes, size_t size_bytes);
  Hash128 digest() const;

 private:
  alignas(64) unsigned char state_[576];  // holds an XXH3_state_t
};

Hash128 hash128(const void* bytes, size_t size_bytes);

}  // namespace shira
