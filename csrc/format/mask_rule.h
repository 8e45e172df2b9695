// Masks that follow from a rule (docs/FORMAT.md section 9): rows and columns, a seed, the base.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "base/result.h"
#include "format/index_codec.h"
#include "format/index_list.h"

namespace shira {

/// A checked rule for positions: a few bytes, whatever the number of entries.
struct MaskRule {
  IndexCodec codec = IndexCodec::structured;
  uint64_t element_count = 0;
  uint64_t entry_count = 0;
  // structured
  uint8_t parts = 0;  // kRowPart, kColumnPart, kDiagonalPart
  uint32_t columns = 0;
  uint32_t period = 0;
  uint32_t phase = 0;
  // random
  uint64_t seed = 0;
  uint32_t block_length = 0;
  uint64_t unit_count = 0;

  static constexpr uint8_t kRowPart = 1;
  static constexpr uint8_t kColumnPart = 2;
  static constexpr uint8_t kDiagonalPart = 4;
};

/// Reads and checks the stream of a derived codec. BAD_INDEX at offset 0 of the stream.
Result<MaskRule> parse_mask_rule(const IndexStream& stream);

/// The positions of a structured or random mask. OUT_OF_MEMORY. Call it only when a tensor of
/// element_count elements is at hand: a file of a few bytes may describe billions of entries.
Result<IndexList> expand_mask(const MaskRule& rule);

/// The positions of the entry_count elements of largest magnitude of `base`, (element_count,)
/// values of a floating-point dtype. OUT_OF_MEMORY.
Result<IndexList> select_top_magnitude(const MaskRule& rule, Dtype dtype, const void* base);

}  // namespace shira
