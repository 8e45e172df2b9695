// Merging the tiers of a tensor: one ascending list of positions, and its values in that order.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/array.h"
#include "base/result.h"
#include "format/index_list.h"

namespace shira {

using IndexLists = std::vector<std::shared_ptr<const IndexList>>;

/// Whether the two have a position in common.
bool overlap(const IndexList& a, const IndexList& b);

/// All positions of `parts`, as runs where they take less memory than entries. OUT_OF_MEMORY.
/// REQUIRES: no two parts overlap.
Result<IndexList> merge_positions(const IndexLists& parts);

/// The values of `parts` in the order of the merged positions. `values[i]` are those of part i, of
/// `value_bytes` (1, 2 or 4) bytes each. OUT_OF_MEMORY. REQUIRES: as above.
Result<Array<uint8_t>> merge_values(const IndexLists& parts,
                                    const std::vector<const uint8_t*>& values, size_t value_bytes);

}  // namespace shira
