// What the program's files tell about a failure to load that ExecuTorch does not say.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "attach/program_weights.h"
#include "base/byte_reader.h"
#include "base/result.h"

namespace shira {

/// Names the weight at fault in the error of a method that could not be loaded: one with a scale
/// that XNNPACK refuses. Or says that a .ptd may be missing, where there is none.
/// `files`: all bytes of the program's files, the .pte first.
void explain_load_failure(const ProgramWeights& weights, const std::vector<ByteReader>& files,
                          Error* error);

}  // namespace shira
