// WeightTable: the live base tensors of a program, by name and by address.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/hash.h"
#include "base/result.h"
#include "runtime/tensor_spec.h"

namespace shira {

/// Tensors are known by their index, which is the order in which they were added. Not thread-safe.
class WeightTable {
 public:
  /// Adds all of them or none. Memory without a source file is hashed, so that verify_base() has
  /// something to compare with.
  Result<void> add(std::vector<TensorSpec> specs);

  /// Asks the regions of these tensors whether their memory is still attached and writable, with
  /// one snapshot of the process's mappings for all. DETACHED, READ_ONLY with the first tensor
  /// concerned.
  Result<void> check_live(const std::vector<uint32_t>& tensor_indices) const;

  const std::vector<TensorSpec>& specs() const { return specs_; }

  /// XXH3-128 of the tensor's elements when it was added. REQUIRES: its region has no source.
  const Hash128& digest(uint32_t tensor_index) const { return digests_[tensor_index]; }

  /// The tensor's index, or -1.
  int64_t find(const std::string& name) const;

 private:
  struct Span {
    uintptr_t end = 0;
    uint32_t tensor_index = 0;  // the first one that was added there
  };

  // DUPLICATE_NAME, or SHARED_STORAGE when the spec's bytes partly overlap a tensor of this table.
  Result<void> check_free(const TensorSpec& spec) const;
  void insert(TensorSpec spec, const Hash128& digest);

  std::vector<TensorSpec> specs_;
  std::vector<Hash128> digests_;
  std::unordered_map<std::string, uint32_t> by_name_;
  /// By plane (ElementLayout::plane) and first address; those of one plane never overlap.
  std::map<std::pair<uint32_t, uintptr_t>, Span> spans_;
};

}  // namespace shira
