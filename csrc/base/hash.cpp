// CRC32C by CPU instruction where there is one, else by table; XXH3-128 over the vendored xxHash.
// SPDX-License-Identifier: Apache-2.0
#include "base/hash.h"

#include <cstring>
#include <new>
#include <type_traits>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

#define XXH_INLINE_ALL
#include "xxhash/xxhash.h"

namespace shira {
namespace {

constexpr std::array<uint32_t, 256> make_crc_table() {
  constexpr uint32_t kPolynomial = 0x82F63B78U;  // Castagnoli, reflected
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1U) != 0 ? kPolynomial : 0U);
    table[byte] = crc;
  }
  return table;
}

constexpr std::array<uint32_t, 256> kCrcTable = make_crc_table();

uint32_t crc32c_table(uint32_t crc, const uint8_t* bytes, size_t size_bytes) {
  for (size_t i = 0; i < size_bytes; ++i) crc = (crc >> 8) ^ kCrcTable[(crc ^ bytes[i]) & 0xFFU];
  return crc;
}

// The instruction is enabled for one function each, so the rest of the library keeps the baseline.
#if defined(__x86_64__)
#define SHIRA_CRC32C_HARDWARE "sse4.2"
#define SHIRA_CRC32C_TARGET __attribute__((target("sse4.2")))
#define SHIRA_CRC32C_U8 __builtin_ia32_crc32qi
#define SHIRA_CRC32C_U64 __builtin_ia32_crc32di
bool has_crc32c_instruction() { return __builtin_cpu_supports("sse4.2") != 0; }
#elif defined(__aarch64__) && defined(__linux__)
#define SHIRA_CRC32C_HARDWARE "armv8-crc"
#if defined(__clang__)
#define SHIRA_CRC32C_TARGET __attribute__((target("crc")))
#define SHIRA_CRC32C_U8 __builtin_arm_crc32cb
#define SHIRA_CRC32C_U64 __builtin_arm_crc32cd
#else
#define SHIRA_CRC32C_TARGET __attribute__((target("+crc")))
#define SHIRA_CRC32C_U8 __builtin_aarch64_crc32cb
#define SHIRA_CRC32C_U64 __builtin_aarch64_crc32cx
#endif
bool has_crc32c_instruction() {
  constexpr unsigned long kHwcapCrc32 = 1UL << 7;  // HWCAP_CRC32 of <asm/hwcap.h>
  return (getauxval(AT_HWCAP) & kHwcapCrc32) != 0;
}
#endif

#if defined(SHIRA_CRC32C_HARDWARE)
SHIRA_CRC32C_TARGET uint32_t crc32c_hardware(uint32_t crc, const uint8_t* bytes,
                                             size_t size_bytes) {
  for (; size_bytes >= 8; bytes += 8, size_bytes -= 8) {
    uint64_t word;
    std::memcpy(&word, bytes, sizeof(word));
    crc = static_cast<uint32_t>(SHIRA_CRC32C_U64(crc, word));
  }
  for (; size_bytes > 0; ++bytes, --size_bytes) crc = SHIRA_CRC32C_U8(crc, *bytes);
  return crc;
}
#endif

Crc32cUpdate choose_crc32c() {
  for (const Crc32cVariant& variant : crc32c_variants()) {
    if (variant.supported) return variant.update;
  }
  return crc32c_table;
}

Hash128 canonical(XXH128_hash_t hash) {
  XXH128_canonical_t bytes;
  XXH128_canonicalFromHash(&bytes, hash);
  Hash128 digest;
  static_assert(sizeof(bytes.digest) == sizeof(digest));
  std::memcpy(digest.data(), bytes.digest, digest.size());
  return digest;
}

}  // namespace

std::vector<Crc32cVariant> crc32c_variants() {
  std::vector<Crc32cVariant> variants;
#if defined(SHIRA_CRC32C_HARDWARE)
  variants.push_back({SHIRA_CRC32C_HARDWARE, has_crc32c_instruction(), crc32c_hardware});
#endif
  variants.push_back({"table", true, crc32c_table});
  return variants;
}

uint32_t crc32c(const void* bytes, size_t size_bytes, uint32_t crc) {
  static const Crc32cUpdate update = choose_crc32c();
  return ~update(~crc, static_cast<const uint8_t*>(bytes), size_bytes);
}

std::string to_hex(const uint8_t* bytes, size_t size_bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(2 * size_bytes);
  for (size_t i = 0; i < size_bytes; ++i) {
    text.push_back(kDigits[bytes[i] >> 4]);
    text.push_back(kDigits[bytes[i] & 0x0FU]);
  }
  return text;
}

Hasher128::Hasher128() {
  static_assert(sizeof(XXH3_state_t) <= sizeof(state_));
  static_assert(alignof(XXH3_state_t) <= 64);
  static_assert(std::is_trivially_copyable_v<XXH3_state_t>, "a copied hasher must be a hasher");
  auto* state = new (state_) XXH3_state_t;
  XXH3_INITSTATE(state);
  XXH3_128bits_reset(state);
}

void Hasher128::update(const void* bytes, size_t size_bytes) {
  XXH3_128bits_update(reinterpret_cast<XXH3_state_t*>(state_), bytes, size_bytes);
}

Hash128 Hasher128::digest() const {
  return canonical(XXH3_128bits_digest(reinterpret_cast<const XXH3_state_t*>(state_)));
}

Hash128 hash128(const void* bytes, size_t size_bytes) {
  return canonical(XXH3_128bits(bytes, size_bytes));
}

}  // namespace shira
