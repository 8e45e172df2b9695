// What a program's copies of pages cost, and the limit that an application may set on them.
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

/// DIRTY_LIMIT when switching to `next` would make pages private, and more bytes than `limit_bytes`
/// would then be private in all regions together. Looks at the pages of the members' entries;
/// touches none. OUT_OF_MEMORY.
Result<void> check_dirty_limit(const WeightTable& weights, const std::vector<ActiveMember>& next,
                               uint64_t limit_bytes);

/// What Program::adapter_pages() documents.
AdapterPages count_pages(const WeightTable& weights, const BoundAdapter& adapter);

/// What Program::memory() documents. REQUIRES: no switch is in flight.
Result<ProgramMemory> measure_memory(const WeightTable& weights,
                                     const std::vector<std::shared_ptr<BoundAdapter>>& adapters,
                                     const ActiveSet& active);

}  // namespace shira
