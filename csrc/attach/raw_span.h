// Attach mode A: memory that the caller owns (torch tensor, numpy array, planned arena, heap).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "runtime/region.h"

namespace shira {

/// A region for the caller-owned memory of one tensor, which the caller keeps alive and in place
/// while the program uses it. attach() refuses memory that is unmapped (DETACHED), read-only or
/// shared with a file on disk (READ_ONLY), and remembers what it is: anonymous, or which place of
/// which file. check() refuses it (DETACHED) when it is no longer that, instead of faulting or
/// storing into somebody else's memory. One thing cannot be seen: private anonymous memory (what
/// malloc gives) that was unmapped and replaced by other private anonymous memory.
std::shared_ptr<Region> make_raw_region();

}  // namespace shira
