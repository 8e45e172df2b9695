// Which kernel implementation runs: the registry with the CPU's answer, and the choice.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "base/result.h"
#include "kernels/kernels.h"

namespace shira::kernels {

/// One line of kernels.def.
struct Implementation {
  KernelTable table;  // without functions when it is not supported
  bool supported;     // by the CPU this runs on
};

/// Everything that was compiled in, best first. The last one, "scalar", is always supported.
const std::vector<Implementation>& implementations();

/// The implementation named `forced`, or the best supported one when it is null or empty.
/// INVALID_ARGUMENT for a name that is not in this build, NOT_SUPPORTED when the CPU cannot run it.
Result<const KernelTable*> select_kernels(const char* forced);

/// select_kernels() of the environment variable SHIRA_FORCE_KERNEL, read once per process. A name
/// that cannot be honoured is an error every time: never silently something else.
Result<const KernelTable*> active_kernels();

}  // namespace shira::kernels
