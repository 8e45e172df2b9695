// The numbers of a program's weight, read from the file: codes, scales, zero points and bias.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "attach/program_weights.h"
#include "base/array.h"
#include "base/result.h"

namespace shira {

/// (rows, columns) elements one behind the other as adapter files have them: a float's bits, or an
/// int8 for each code. `paths`: ProgramWeights::paths. TRUNCATED when a file has become shorter,
/// IO_ERROR, OUT_OF_MEMORY. REQUIRES: a weight without why_not.
Result<Array<uint8_t>> read_weight_codes(const ProgramWeight& weight,
                                         const std::vector<std::string>& paths);

/// Scales, zero points or a bias, widened: none where there are none. The same errors.
/// REQUIRES: `bytes` and its dtype are this weight's.
Result<Array<float>> read_weight_floats(const ProgramWeight& weight, const WeightBytes& bytes,
                                        Dtype dtype, const std::vector<std::string>& paths);

}  // namespace shira
