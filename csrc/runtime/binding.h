// Binding an adapter to live tensors, and checking that it was made for the base that they hold.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"
#include "runtime/patch.h"
#include "runtime/program.h"
#include "runtime/weight_table.h"

namespace shira {

/// What an adapter is bound to.
struct BindContext {
  const WeightTable& weights;
  const ActiveSet& active;                                   // what lies over the weights
  const std::vector<std::shared_ptr<BoundAdapter>>& others;  // whose positions may be shared
  ThreadPool& pool;
};

/// True when binding has to look at base values: a mask is the largest of them.
bool reads_base(const Adapter& source);

/// Finds the adapter's tensors by exact name and compares shape and dtype; then expands derived
/// masks, for which it reads base values where a mask is the largest of them. Tensors with equal
/// positions in the same live tensor share one Positions object. The errors of
/// Program::add_adapter. REQUIRES: no switch is in flight.
Result<std::shared_ptr<BoundAdapter>> bind_adapter(const std::shared_ptr<const Adapter>& source,
                                                   const AddOptions& options,
                                                   const BindContext& context);

/// The live weights and what lies over them.
struct LiveWeights {
  const WeightTable& table;
  const kernels::KernelTable& kernels;
  const ActiveSet& active;
};

/// The originals saved at the positions of one adapter tensor have the file's fingerprint. Looked
/// at once, and not at the weights. BASE_MISMATCH. REQUIRES: there are such originals.
Result<void> check_saved_originals(const LiveWeights& live, const BoundAdapter& adapter,
                                   const BoundTensor& bound);

/// The base's values at the positions of one adapter tensor, with the active patches looked
/// through. They are compared with the originals that a switch has saved, and with the file's
/// fingerprint. BASE_MISMATCH, DETACHED, OUT_OF_MEMORY. REQUIRES: the tensor's region was checked
/// and no switch is in flight.
Result<std::shared_ptr<const Bytes>> check_base(const LiveWeights& live,
                                                const BoundAdapter& adapter,
                                                const BoundTensor& bound);

}  // namespace shira
