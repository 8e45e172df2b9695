// The only file that knows libsodium; SHIRA_WITH_SODIUM says whether it is there.
// SPDX-License-Identifier: Apache-2.0
#include "base/signature.h"

#if defined(SHIRA_WITH_SODIUM)
#include <sodium.h>

#include <cstring>
#include <type_traits>
#endif

namespace shira {
namespace {

Error no_cryptography() {
  return {Status::NO_CRYPTOGRAPHY,
          "digests and signatures cannot be checked: this build has no libsodium, or it failed to"
          " start"};
}

}  // namespace

Result<Hash256> sha256(const void* bytes, size_t size_bytes) {
  SHIRA_ASSIGN(Hasher256 hasher, Hasher256::make());
  hasher.update(bytes, size_bytes);
  return hasher.digest();
}

#if defined(SHIRA_WITH_SODIUM)

bool cryptography_available() {
  // sodium_init() may be called by anybody at any time; 1 says that somebody did before.
  static const bool available = sodium_init() >= 0;
  return available;
}

Result<Hasher256> Hasher256::make() {
  using State = crypto_hash_sha256_state;
  static_assert(sizeof(State) <= sizeof(state_) && alignof(State) <= 8);
  static_assert(std::is_trivially_copyable_v<State>, "it is moved as bytes");
  if (!cryptography_available()) return no_cryptography();
  State state;
  crypto_hash_sha256_init(&state);
  Hasher256 hasher;
  std::memcpy(hasher.state_.data(), &state, sizeof(state));
  return hasher;
}

void Hasher256::update(const void* bytes, size_t size_bytes) {
  crypto_hash_sha256_state state;
  std::memcpy(&state, state_.data(), sizeof(state));
  crypto_hash_sha256_update(&state, static_cast<const unsigned char*>(bytes), size_bytes);
  std::memcpy(state_.data(), &state, sizeof(state));
}

Hash256 Hasher256::digest() const {
  crypto_hash_sha256_state state;
  std::memcpy(&state, state_.data(), sizeof(state));
  Hash256 digest;
  crypto_hash_sha256_final(&state, digest.data());
  return digest;
}

Result<void> verify_ed25519(const PublicKey& public_key, const Signature& signature,
                            const void* message, size_t message_bytes) {
  static_assert(sizeof(PublicKey) == crypto_sign_ed25519_PUBLICKEYBYTES);
  static_assert(sizeof(Signature) == crypto_sign_ed25519_BYTES);
  if (!cryptography_available()) return no_cryptography();
  if (crypto_sign_ed25519_verify_detached(signature.data(),
                                          static_cast<const unsigned char*>(message), message_bytes,
                                          public_key.data()) != 0) {
    return Error{Status::BAD_SIGNATURE, "the Ed25519 signature is not the key's for this message"};
  }
  return {};
}

#else

bool cryptography_available() { return false; }

Result<Hasher256> Hasher256::make() { return no_cryptography(); }

void Hasher256::update(const void* /*bytes*/, size_t /*size_bytes*/) {}

Hash256 Hasher256::digest() const { return {}; }

Result<void> verify_ed25519(const PublicKey& /*public_key*/, const Signature& /*signature*/,
                            const void* /*message*/, size_t /*message_bytes*/) {
  return no_cryptography();
}

#endif

}  // namespace shira
