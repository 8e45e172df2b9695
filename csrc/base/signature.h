// SHA-256 and Ed25519 verification over libsodium, or NO_CRYPTOGRAPHY in a build without it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/result.h"

namespace shira {

using Hash256 = std::array<uint8_t, 32>;
using PublicKey = std::array<uint8_t, 32>;  // RFC 8032, 5.1.2: an encoded point
using Signature = std::array<uint8_t, 64>;  // RFC 8032, 5.1.6: R, then S

// Every function may be called from several threads at once. A null pointer is allowed where the
// size is 0. They fail with NO_CRYPTOGRAPHY where the library was not built in or cannot start.

/// Whether the functions below can answer. The same for the life of the process.
bool cryptography_available();

/// Streaming SHA-256 (FIPS 180-4). A copy goes its own way.
class Hasher256 {
 public:
  /// Fails with NO_CRYPTOGRAPHY only: the state lives inside the object.
  static Result<Hasher256> make();
  void update(const void* bytes, size_t size_bytes);
  Hash256 digest() const;

 private:
  Hasher256() = default;
  alignas(8) std::array<unsigned char, 128> state_{};  // holds a crypto_hash_sha256_state
};

Result<Hash256> sha256(const void* bytes, size_t size_bytes);

/// Success if and only if `signature` is `public_key`'s Ed25519 signature of the message (RFC 8032,
/// pure), else BAD_SIGNATURE. As the RFC demands, an S that is not reduced is refused: with it
/// anybody could make a second signature from a first. Beyond the RFC, a key or an R of small order
/// is (such a key has signatures for all messages), and a key that is not canonical.
/// There is no bool to forget: SHIRA_TRY is the whole check.
Result<void> verify_ed25519(const PublicKey& public_key, const Signature& signature,
                            const void* message, size_t message_bytes);

}  // namespace shira
