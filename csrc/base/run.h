// Run: consecutive flat indices. Apart from everything else because kernel files may include it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace shira {

/// `length` consecutive flat indices from `start`. REQUIRES everywhere: length >= 1 and
/// start + length <= 2^32 - 1.
struct Run {
  uint32_t start;
  uint32_t length;
};

}  // namespace shira
