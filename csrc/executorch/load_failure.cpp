// Looks for what ExecuTorch's loader stumbles over.
// SPDX-License-Identifier: Apache-2.0
#include "executorch/load_failure.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>

#include "base/float_bits.h"
#include "packed/base_matrix.h"

namespace shira {
namespace {

/// The first scale of a weight that is no positive normal number, in words; "" if all are.
std::string bad_scale(const BaseMatrix& matrix) {
  if (matrix.scales == nullptr) return {};
  const bool has_groups = matrix.group_length != 0;
  const uint64_t group_count = has_groups ? matrix.column_count / matrix.group_length : 1;
  for (uint64_t i = 0; i < matrix.row_count * group_count; ++i) {
    float scale = 0;
    if (has_groups) {
      uint16_t bits;
      std::memcpy(&bits, matrix.scales + i * sizeof(bits), sizeof(bits));
      scale = widen_bf16(bits);
    } else {
      std::memcpy(&scale, matrix.scales + i * sizeof(scale), sizeof(scale));
    }
    if (scale > 0 && std::isnormal(scale)) continue;
    char number[32];
    std::snprintf(number, sizeof(number), "%g", static_cast<double>(scale));
    return "a scale of row " + std::to_string(i / group_count) + " is " + number +
           ", and XNNPACK takes positive normal numbers only";
  }
  return {};
}

}  // namespace

void explain_load_failure(const ProgramWeights& weights, const std::vector<ByteReader>& files,
                          Error* error) {
  if (error->status != Status::BAD_PROGRAM_FILE) return;
  for (const ProgramWeight& weight : weights.weights) {
    if (weight.storage != WeightStorage::packed || !weight.why_not.empty()) continue;
    const Result<BaseMatrix> matrix = view_weight(weight, files);
    const std::string problem = matrix.ok() ? bad_scale(matrix.value()) : std::string();
    if (problem.empty()) continue;
    error->tensor = weight.name;
    error->message += " (" + problem + ")";
    return;
  }
  // In all that ExecuTorch says about data that it does not find.
  if (files.size() == 1 && error->message.find("xternal") != std::string::npos)
    error->message += " (are its weights in a .ptd file? Then data_path names it)";
}

}  // namespace shira
