// Arithmetic on sizes that come from files: overflow is an answer, not a wrap-around.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace shira {

/// True and *out = a + b, or false on overflow.
inline bool checked_add(uint64_t a, uint64_t b, uint64_t* out) {
  return !__builtin_add_overflow(a, b, out);
}

/// True and *out = a * b, or false on overflow.
inline bool checked_mul(uint64_t a, uint64_t b, uint64_t* out) {
  return !__builtin_mul_overflow(a, b, out);
}

/// True when [offset, offset + size) lies inside [0, limit).
inline bool range_fits(uint64_t offset, uint64_t size, uint64_t limit) {
  return offset <= limit && size <= limit - offset;
}

/// `value` rounded up to a multiple of `alignment`. REQUIRES: alignment is a power of two and no
/// overflow.
inline uint64_t align_up(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) & ~(alignment - 1);
}

}  // namespace shira
