// Phrases of the error messages about adapter files: what was found, what was expected.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

namespace shira {

/// "`what` is `found`, not `expected`"
inline std::string differs(const std::string& what, uint64_t found, uint64_t expected) {
  return what + " is " + std::to_string(found) + ", not " + std::to_string(expected);
}

/// "`what` is `found`, not in `low` to `high`"
inline std::string out_of_range(const std::string& what, uint64_t found, uint64_t low,
                                uint64_t high) {
  return what + " is " + std::to_string(found) + ", not in " + std::to_string(low) + " to " +
         std::to_string(high);
}

/// "`what` `number` has no meaning in this version"
inline std::string meaningless(const std::string& what, uint64_t number) {
  return what + " " + std::to_string(number) + " has no meaning in this version";
}

/// "the CRC32C of `what` is 0x..., but the file declares 0x..."
inline std::string wrong_crc(const std::string& what, uint32_t computed, uint32_t declared) {
  char numbers[64];
  std::snprintf(numbers, sizeof(numbers), " is 0x%08x, but the file declares 0x%08x", computed,
                declared);
  return "the CRC32C of " + what + numbers;
}

}  // namespace shira
