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

constexpr uint32_t kPolynomial = 0x82F63B78U;  // Castagnoli, reflected: bit 31 is x^0

/// `value` times x modulo the polynomial.
constexpr uint32_t times_x(uint32_t value) {
  return (value >> 1) ^ ((value & 1U) != 0 ? kPolynomial : 0U);
}

constexpr uint32_t multiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (uint32_t bit = 1U << 31; bit != 0; bit >>= 1, b = times_x(b)) {
    if ((a & bit) != 0) product ^= b;
  }
  return product;
}

constexpr std::array<uint32_t, 64> make_zero_byte_powers() {
  std::array<uint32_t, 64> powers{};
  powers[0] = 1U << (31 - 8);  // x^8: one byte
  for (size_t i = 1; i < powers.size(); ++i) powers[i] = multiply(powers[i - 1], powers[i - 1]);
  return powers;
}

/// By i: what 2^i zero bytes multiply a register by.
constexpr std::array<uint32_t, 64> kZeroBytePowers = make_zero_byte_powers();

constexpr std::array<uint32_t, 256> make_crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = times_x(crc);
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
// The instruction takes a new word every cycle but answers after three, so three lanes of bytes go
// side by side. A register at the end of one lane is then moved over the next as if that were zero.
constexpr size_t kLaneBytesLog2 = 10;
constexpr size_t kLaneBytes = size_t{1} << kLaneBytesLog2;

/// What kLaneBytes zero bytes make of each byte of the register, by its place.
using LaneTable = std::array<std::array<uint32_t, 256>, 4>;

constexpr LaneTable make_lane_table() {
  const uint32_t power = kZeroBytePowers[kLaneBytesLog2];
  LaneTable table{};
  for (uint32_t place = 0; place < 4; ++place) {
    for (uint32_t byte = 0; byte < 256; ++byte) {
      table[place][byte] = multiply(power, byte << (8 * place));
    }
  }
  return table;
}

constexpr LaneTable kLaneTable = make_lane_table();

uint32_t skip_lane(uint32_t crc) {
  return kLaneTable[0][crc & 0xFFU] ^ kLaneTable[1][crc >> 8 & 0xFFU] ^
         kLaneTable[2][crc >> 16 & 0xFFU] ^ kLaneTable[3][crc >> 24];
}

SHIRA_CRC32C_TARGET inline uint32_t crc32c_word(uint32_t crc, const uint8_t* bytes) {
  uint64_t word;
  std::memcpy(&word, bytes, sizeof(word));
  return static_cast<uint32_t>(SHIRA_CRC32C_U64(crc, word));
}

SHIRA_CRC32C_TARGET uint32_t crc32c_hardware(uint32_t crc, const uint8_t* bytes,
                                             size_t size_bytes) {
  for (; size_bytes >= 3 * kLaneBytes; bytes += 3 * kLaneBytes, size_bytes -= 3 * kLaneBytes) {
    uint32_t second = 0;
    uint32_t third = 0;
    for (size_t i = 0; i < kLaneBytes; i += 8) {
      crc = crc32c_word(crc, bytes + i);
      second = crc32c_word(second, bytes + kLaneBytes + i);
      third = crc32c_word(third, bytes + 2 * kLaneBytes + i);
    }
    crc = skip_lane(skip_lane(crc) ^ second) ^ third;
  }
  for (; size_bytes >= 8; bytes += 8, size_bytes -= 8) crc = crc32c_word(crc, bytes);
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

uint32_t crc32c_combine(uint32_t first_crc, uint32_t second_crc, uint64_t second_bytes) {
  // The inversions at the ends of both sums cancel each other out.
  for (size_t i = 0; second_bytes >> i != 0; ++i) {
    if ((second_bytes >> i & 1U) != 0) first_crc = multiply(kZeroBytePowers[i], first_crc);
  }
  return first_crc ^ second_crc;
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
