// ElementLayout: how a tensor's elements lie in memory where they are not one behind the other.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/result.h"

namespace shira {

/// Where one element lies, in bytes from the tensor's data.
struct ElementPlace {
  uint64_t element_offset_bytes = 0;
  uint64_t sum_offset_bytes = 0;  // of what is kept right beside it; where there is none, the same
};

/// One tensor's own. An element is handed over as adapter files have it: a float's bits, or a byte
/// for each integer code. `index`: flat, row-major, strictly ascending, below the tensor's numel.
/// Values are aligned to the element; arrays do not overlap the weights. REQUIRES everywhere but in
/// the constants: the tensor's region was checked, and DefaultFloatMode.
class ElementLayout {
 public:
  virtual ~ElementLayout() = default;

  /// Bytes from the tensor's data on that it lies in.
  virtual uint64_t size_bytes() const = 0;

  /// Threads may write at the same time below and above a multiple of so many elements: they share
  /// no byte there.
  virtual uint64_t group_elements() const = 0;

  virtual ElementPlace place_of(uint32_t index) const = 0;

  virtual void gather(const uint32_t* index, size_t count, uint8_t* out) const = 0;

  /// What is computed from the elements (row sums) is right again afterwards.
  virtual void store(const uint32_t* index, size_t count, const uint8_t* values) const = 0;

  /// store(), with what was there before in `out`.
  virtual void swap(const uint32_t* index, size_t count, const uint8_t* values,
                    uint8_t* out) const = 0;

  /// Elements [first_index, first_index + count), one behind the other.
  virtual void read(uint64_t first_index, uint64_t count, uint8_t* out) const = 0;

  /// What lies beside the elements (sums, scales, biases) is what packing would make of them as
  /// they are. BASE_MODIFIED with the byte at fault.
  virtual Result<void> check_beside() const { return {}; }
};

}  // namespace shira
