// Binding an adapter to live tensors, and checking that it was made for the base that they hold.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "base/result.h"
#include "kernels/kernels.h"
#include "runtime/patch.h"
#include "runtime/program.h"
#include "runtime/weight_table.h"

namespace shira {

/// Finds the adapter's tensors by exact name and compares shape and dtype. Reads no weight. The
/// errors of Program::add_adapter.
Result<std::shared_ptr<BoundAdapter>> bind_adapter(std::shared_ptr<const AdapterFile> file,
                                                   const AddOptions& options,
                                                   const WeightTable& weights);

/// The live weights and what lies over them.
struct LiveWeights {
  const WeightTable& table;
  const kernels::KernelTable& kernels;
  const ActiveSet& active;
};

/// The base's values at the positions of one adapter tensor, with the active patches looked
/// through. They are compared with the originals that the first switch saved, or, before that, with
/// the file's fingerprint. BASE_MISMATCH, OUT_OF_MEMORY. REQUIRES: the tensor's region was checked
/// and no switch is in flight.
Result<std::shared_ptr<const Bytes>> check_base(const LiveWeights& live,
                                                const BoundAdapter& adapter,
                                                const BoundTensor& bound);

}  // namespace shira
