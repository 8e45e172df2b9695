// SwitchPlan: everything one switch needs, worked out and checked before the first store (law I2).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/array.h"
#include "base/result.h"
#include "kernels/kernels.h"
#include "runtime/patch.h"
#include "runtime/patch_builder.h"
#include "runtime/program.h"
#include "runtime/thread_pool.h"
#include "runtime/weight_table.h"

namespace shira {

/// The steps in their order; each may be called once, and the plan is dropped when one of them
/// fails. REQUIRES: the caller is the gate's writer for the plan's whole life, and the arguments
/// outlive it.
class SwitchPlan {
 public:
  SwitchPlan(const WeightTable& weights, const kernels::KernelTable& kernels, ThreadPool& pool,
             const ActiveSet& from, std::vector<ActiveMember> to);

  /// Every tensor that the old or the new state touches is still the memory that was attached.
  /// DETACHED, READ_ONLY.
  Result<void> check_regions() const;

  /// The base of each entering adapter is the one it was made for; its originals are saved.
  /// BASE_MISMATCH.
  Result<void> check_bases();

  /// The new values, and the list of stores that lead from the old state to the new one, into pages
  /// that are there. NON_FINITE_RESULT, DETACHED.
  Result<void> prepare();

  /// Writes the weights: every position once. Allocates nothing. DETACHED when somebody truncates
  /// the file of a tensor in these very moments: the old state is then put back wherever there is
  /// still memory to put it into.
  Result<void> store();

  /// Gives the adapters what they keep and returns the new active set. Cannot fail, allocates
  /// nothing.
  ActiveSet commit();

  /// The counts of the report; complete after store().
  void report(SwitchReport* report) const;

 private:
  // Writes one array of values to one tensor.
  struct Store {
    uint32_t tensor_index = 0;
    std::shared_ptr<const Positions> positions;
    const uint8_t* values = nullptr;
    Bytes owned_values;  // behind `values`, unless a patch holds them
  };
  struct StoreSlice {
    const Store* store = nullptr;
    size_t slice_index = 0;
  };

  Result<void> build_patches();
  Result<void> list_restores();
  Result<Store> restore_of(const Patch& old_patch) const;
  Result<void> prepare_pages();
  void count_pages();
  Result<void> list_slices();
  void put_back();
  uint64_t touched_entries() const;

  const WeightTable& weights_;
  const kernels::KernelTable& kernels_;
  ThreadPool& pool_;
  const ActiveSet& from_;
  ActiveSet to_;
  std::vector<Touch> touches_;             // by tensor, then in the order of summation
  std::vector<size_t> first_touches_;      // of each patched tensor, and the end
  std::vector<uint32_t> touched_tensors_;  // of the old or the new state, ascending
  std::vector<Store> stores_;
  Array<StoreSlice> slices_;
  uint64_t elements_written_ = 0;
  uint64_t elements_changed_ = 0;
  uint64_t bytes_written_ = 0;
  uint64_t pages_touched_ = 0;
};

}  // namespace shira
