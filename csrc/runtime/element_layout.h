// ElementLayout: how a tensor's elements lie in memory where they are not one behind the other.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/result.h"
#include "runtime/region.h"

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

  /// What the tensor takes in memory, from its data on.
  virtual uint64_t size_bytes() const = 0;

  /// Tensors whose elements lie in turns in one span of memory have different planes: a matrix and
  /// the bias that is packed between its rows. In one plane, memory that overlaps is shared.
  virtual uint32_t plane() const { return 0; }

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

  /// out[j] = element first_index + j.
  virtual void read(uint64_t first_index, uint64_t count, uint8_t* out) const = 0;

  // Where the tensor's region has a source: `size_bytes` of elements as they would lie one behind
  // the other, from `offset_bytes` on, as the source has them. As they stand here, for a region
  // that answers in such bytes; `data` is the tensor's.

  /// The errors of Region::read_source().
  virtual Result<void> read_source(const Region& region, const uint8_t* data, uint64_t offset_bytes,
                                   uint64_t size_bytes, uint8_t* out) const {
    return region.read_source(data + offset_bytes, size_bytes, out);
  }

  /// How many bytes of the source that would have to fetch from storage.
  virtual uint64_t cold_source_bytes(const Region& region, const uint8_t* data,
                                     uint64_t offset_bytes, uint64_t size_bytes) const {
    return region.cold_source_bytes(data + offset_bytes, size_bytes);
  }

  /// What lies beside the elements (sums, scales, biases) is what packing would make of them as
  /// they are. BASE_MODIFIED with the byte at fault.
  virtual Result<void> check_beside() const { return {}; }
};

}  // namespace shira
