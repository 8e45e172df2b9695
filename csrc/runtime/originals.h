// Saved originals that are not kept, but read again from the file that the base came from.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/result.h"
#include "runtime/patch.h"
#include "runtime/program.h"
#include "runtime/weight_table.h"

namespace shira {

/// What reading originals again has cost so far.
struct SourceReads {
  uint64_t read_bytes = 0;
  uint64_t cold_bytes = 0;  // of them, not in the page cache beforehand
};

/// NOT_SUPPORTED where the tensor has no file that originals could be read from.
Result<void> check_has_source(const TensorSpec& spec);

/// Reads the originals of the patches that have none: of their positions, from the sources of their
/// regions. They must have the hash that dropping them has left. BASE_MISMATCH, DETACHED, IO_ERROR,
/// OUT_OF_MEMORY; what was read until then stays. REQUIRES: the caller is the gate's writer.
Result<void> load_originals(const WeightTable& weights, const ActiveSet& active,
                            SourceReads* reads);

/// The same for a caller who is only a reader: a set with copies of these patches, or `active`
/// itself where nothing is missing.
Result<std::shared_ptr<const ActiveSet>> with_originals(
    const WeightTable& weights, const std::shared_ptr<const ActiveSet>& active, SourceReads* reads);

/// Lets go of the originals of these patches and adapters, and leaves their hashes. REQUIRES: the
/// caller is the gate's writer and guards the digests, which are worked out as long as they can be;
/// every tensor has a source.
void drop_originals(const ActiveSet& active,
                    const std::vector<std::shared_ptr<BoundAdapter>>& adapters);

}  // namespace shira
