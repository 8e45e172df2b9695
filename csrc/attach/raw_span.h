// Attach mode A: memory that the caller owns (torch tensor, numpy array, planned arena, heap).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "runtime/region.h"

namespace shira {

/// A region for caller-owned memory. The caller keeps it alive and in place while the program uses
/// it; check() refuses memory that was unmapped (DETACHED), or that is mapped read-only or shared
/// with a file on disk (READ_ONLY), instead of faulting or changing the file.
std::shared_ptr<Region> make_raw_region();

}  // namespace shira
