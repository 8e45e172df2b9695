// PackedPatcher: writes codes of a packed weight and keeps its row sums right.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "packed/layout.h"

namespace shira {

/// What a forward pass computes from the packed bytes afterwards is what it would compute from a
/// fresh packing of the new codes: all bytes of real rows are the same.
///
/// REQUIRES everywhere: `index` is strictly increasing and below row_count * column_count, `count`
/// entries; values are one element for each, aligned to it: of i8 and i4 an int8, i4 in -8 to 7, of
/// floats the bits. Arrays do not overlap each other or the packed bytes. No other thread reads or
/// writes the rows concerned meanwhile: threads may share a weight by whole rows of different
/// blocks. Of i4 in groups, the thread rounds to nearest and keeps subnormals.
class PackedPatcher {
 public:
  /// REQUIRES: `packed` holds layout.size_bytes() that were calibrated with it, and both outlive
  /// the patcher.
  PackedPatcher(const PackedLayout& layout, uint8_t* packed) : layout_(layout), packed_(packed) {}

  /// out[j] = the code at index[j].
  void gather(const uint32_t* index, size_t count, uint8_t* out) const;

  /// Stores values[j] at index[j] and brings the sums of touched rows up to date.
  void store(const uint32_t* index, size_t count, const uint8_t* values);

  /// store(), with what was there before in `old_values`. Storing that again brings every byte
  /// back, sums too.
  void swap(const uint32_t* index, size_t count, const uint8_t* values, uint8_t* old_values);

 private:
  const PackedLayout& layout_;
  uint8_t* packed_;
};

}  // namespace shira
