// Weights that a delegate packs and that kernels also read elsewhere: one parameter, kept twice.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "attach/program_source.h"
#include "attach/program_weights.h"
#include "attach/weight_names.h"
#include "base/result.h"

namespace shira {

/// A table of embeddings that is tied to the last layer, say: the exporter stores its values for
/// the delegate, and once more, often without a name, for the kernel outside. A store reaches one
/// of them only, so neither can be switched: both get a why_not, a named constant as a weight of
/// its own. Values are told by their bytes; two that the program gives different names are two.
/// Packed weights and biases without names of the program are refused, too, where another one has
/// their values in a packing of its own.
/// BAD_PROGRAM_FILE, TRUNCATED, IO_ERROR, OUT_OF_MEMORY. REQUIRES: the weights have their names.
Result<void> refuse_twins(const std::vector<std::unique_ptr<ProgramSource>>& files,
                          const WeightNames& names, std::vector<ProgramWeight>* weights);

}  // namespace shira
