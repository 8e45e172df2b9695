// The weights that XNNPACK has packed for a program, as tensors that can be switched.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "attach/program_weights.h"
#include "base/result.h"
#include "executorch/packed_cache.h"
#include "executorch/private_mapping.h"
#include "packed/cache_index.h"
#include "runtime/tensor_spec.h"

namespace shira {

struct PackedWeights {
  PackedCacheIndex index;
  std::vector<TensorSpec> specs;
  std::map<std::string, std::string> unpatchable;  // the others by name, each with the reason
};

/// Finds every packed weight of `weights`, and the biases beside them, in the cache and compares
/// all numbers there with the program's `files` (file 0 is the .pte); what is not the same to the
/// bit is left alone. The tensors store to a mapping of the cache of their own. REQUIRES: the cache
/// is what the `methods` were loaded with, and no more will be. What a malformed index fails with,
/// TRUNCATED (a file has become shorter), OUT_OF_MEMORY.
Result<PackedWeights> find_packed_weights(const PackedCache& cache, const ProgramWeights& weights,
                                          const std::vector<std::shared_ptr<PrivateMapping>>& files,
                                          const std::vector<std::string>& methods);

}  // namespace shira
