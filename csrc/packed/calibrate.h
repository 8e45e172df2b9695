// Finds out how a weight matrix was packed, by comparing every number of it with the base.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/result.h"
#include "packed/base_matrix.h"
#include "packed/layout.h"

namespace shira {

/// The one layout with which all codes, sums, scales and biases in `packed` (`size_bytes` of them,
/// an entry of the packed cache) are those of `base`, bit for bit. REQUIRES: the thread rounds to
/// nearest and keeps subnormals. Fails, with the tensor named:
/// - NOT_SUPPORTED: no known layout has this size, or puts the base's codes where they are, or two
///   of them fit and disagree.
/// - BASE_MODIFIED: one layout has nearly all codes right; the message says what differs where.
Result<PackedLayout> calibrate(const BaseMatrix& base, const uint8_t* packed, uint64_t size_bytes);

}  // namespace shira
