// HardRevert: back to the base by dropping private pages, with everything checked beforehand.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "base/hash.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"
#include "runtime/patch.h"
#include "runtime/program.h"
#include "runtime/weight_table.h"

namespace shira {

/// The steps in their order; each may be called once, and the object is dropped when check() fails.
/// REQUIRES: the caller is the gate's writer for its whole life, and the arguments outlive it.
class HardRevert {
 public:
  HardRevert(const WeightTable& weights, const kernels::KernelTable& kernels, ThreadPool& pool,
             const ActiveSet& from)
      : weights_(weights), kernels_(kernels), pool_(pool), from_(from) {}

  /// Finds the tensors with a source and reads them through: what differs from the source is what
  /// dropping the pages will change, whoever stored it (law I10). NOT_SUPPORTED, DETACHED,
  /// READ_ONLY, IO_ERROR, OUT_OF_MEMORY.
  Result<void> check();

  /// Drops the pages of every region. When one refuses, the active state is put back over those
  /// before it (law I2).
  Result<void> drop();

  /// The counts of the report; complete after drop(). When that failed, elements_changed is 0
  /// exactly when the weights are what they were.
  void report(SwitchReport* report) const;

 private:
  // One tensor with a source, as check() found it.
  struct Standing {
    uint32_t tensor_index = 0;
    uint64_t elements_changed = 0;  // which differ from the source
    Hash128 digest{};               // of the live elements
  };

  Result<void> find_tensors();
  Result<void> compare_with_source(Standing* tensor) const;
  void put_back() const;
  bool is_as_before(const Standing& tensor) const;

  const WeightTable& weights_;
  const kernels::KernelTable& kernels_;
  ThreadPool& pool_;
  const ActiveSet& from_;
  std::vector<Standing> tensors_;
  std::vector<Region*> regions_;  // theirs, each once
  uint64_t elements_changed_ = 0;
};

}  // namespace shira
