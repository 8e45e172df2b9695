// Touching live weights so that a truncated file is an answer and not the end of the process.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/fault_guard.h"
#include "base/result.h"
#include "runtime/tensor_spec.h"

namespace shira {

/// DETACHED, after the region has taken away the empty pages that a FaultGuard put into the tensor.
Error pages_went_away(const TensorSpec& tensor);

/// Calls access(), which reads or writes live bytes of the tensor. DETACHED when some of them went
/// away: then what was read is worthless, and what was stored there is lost.
template <typename Access>
Result<void> access_live(const TensorSpec& tensor, const Access& access) {
  const FaultGuard guard(tensor.data, live_bytes(tensor));
  access();
  if (guard.has_faulted()) return pages_went_away(tensor);
  return {};
}

}  // namespace shira
