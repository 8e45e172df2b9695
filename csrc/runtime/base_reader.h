// A tensor's base values: read out of memory that patches lie over, or from their source.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/hash.h"
#include "base/result.h"
#include "runtime/index_set.h"
#include "runtime/patch.h"
#include "runtime/tensor_spec.h"

namespace shira {

/// Copies a tensor's live elements in ascending chunks, with the originals in the place of a
/// patch's values. REQUIRES: the region was checked, and no switch is in flight.
class BaseReader {
 public:
  /// `patch`: what lies over the tensor, or nullptr. Both must outlive the reader.
  BaseReader(const TensorSpec& spec, const Patch* patch);

  /// Bytes of the elements as they would lie one behind the other. DETACHED when the file behind
  /// the memory was truncated. REQUIRES: whole elements, from where the chunk before ended or
  /// behind.
  Result<void> read(uint64_t offset_bytes, uint64_t size_bytes, uint8_t* out);

 private:
  template <typename Cursor>
  void overlay(Cursor* cursor, uint64_t first_index, uint64_t count, uint8_t* out) const;

  const TensorSpec& spec_;
  size_t element_bytes_;
  const uint8_t* originals_;
  index_set::EntryCursor entries_;
  index_set::RunCursor runs_;
};

/// XXH3-128 of the live elements. DETACHED, OUT_OF_MEMORY.
Result<Hash128> digest_of_elements(const TensorSpec& spec);

// The same bytes of the source that the tensor's region has.

/// NOT_SUPPORTED, IO_ERROR, DETACHED, with the tensor named. REQUIRES: whole elements.
Result<void> read_source(const TensorSpec& spec, uint64_t offset_bytes, uint64_t size_bytes,
                         uint8_t* out);

/// How many bytes that would have to fetch from storage.
uint64_t cold_source_bytes(const TensorSpec& spec, uint64_t offset_bytes, uint64_t size_bytes);

}  // namespace shira
