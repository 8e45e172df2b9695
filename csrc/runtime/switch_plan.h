// SwitchPlan: everything one switch needs, worked out, stored, and undone when it fails (law I2).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"
#include "runtime/patch.h"
#include "runtime/patch_builder.h"
#include "runtime/program.h"
#include "runtime/tile_pass.h"
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

  /// The originals of every member: saved ones, checked against its fingerprints; otherwise read,
  /// where new values are computed from them, or room for the store to save them in. BASE_MISMATCH.
  Result<void> find_originals();

  /// The new values. NON_FINITE_RESULT.
  Result<void> build_patches();

  /// The pages to be stored to are there. DETACHED.
  Result<void> prepare_pages();

  /// Writes the weights, and checks the base that they are written over. Fails with BASE_MISMATCH,
  /// and with DETACHED when somebody truncates the file of a tensor in these very moments: the old
  /// state is then put back wherever there is still memory to put it into.
  Result<void> store();

  /// Gives the adapters what they keep and returns the new active set. Cannot fail.
  ActiveSet commit();

  /// The counts of the report; complete after store().
  void report(SwitchReport* report) const;

 private:
  Result<void> make_room();
  bool is_alone(size_t touch_index) const;
  void list_steps();
  Error explain(Error error) const;
  uint64_t elements_changed() const;
  uint64_t touched_entries() const;

  const WeightTable& weights_;
  const kernels::KernelTable& kernels_;
  ThreadPool& pool_;
  const ActiveSet& from_;
  ActiveSet to_;
  std::vector<Touch> touches_;             // by tensor, then in the order of summation
  std::vector<size_t> first_touches_;      // of each patched tensor, and the end
  std::vector<uint32_t> touched_tensors_;  // of the old or the new state, ascending
  std::vector<TensorStep> steps_;          // one for each of them
  std::optional<uint64_t> known_change_;   // elements, from an earlier switch between the same two
  std::optional<TilePass> pass_;
};

}  // namespace shira
