// IndexList: the positions an adapter touches in one tensor, as single entries or as runs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/array.h"
#include "base/run.h"

namespace shira {

/// Strictly increasing flat indices, all below the tensor's element count. Exactly one of the two
/// arrays is filled: run- and block-coded masks stay runs, so that they cost a copy per run and not
/// a store per entry. Between two runs lies at least one element.
struct IndexList {
  Array<uint32_t> entries;   // (entry_count,) or empty
  Array<Run> runs;           // (run count,) or empty
  uint64_t entry_count = 0;  // nnz

  bool is_runs() const { return !runs.empty(); }
};

}  // namespace shira
