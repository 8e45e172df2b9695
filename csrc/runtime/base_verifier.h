// Comparing whole base tensors with their source: what verify_base() does.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "runtime/binding.h"
#include "runtime/patch.h"
#include "runtime/program.h"

namespace shira {

/// Reads every tensor with the active patches looked through, and compares it with its source file
/// or with the digest taken when it was added; then with the base digests of the bound ones among
/// `adapters`. DETACHED, READ_ONLY, IO_ERROR, OUT_OF_MEMORY. REQUIRES: no switch is in flight.
Result<VerifyReport> verify_live_base(const LiveWeights& live,
                                      const std::vector<std::shared_ptr<BoundAdapter>>& adapters,
                                      ThreadPool& pool);

}  // namespace shira
