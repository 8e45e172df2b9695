// Attach mode D: a weight that a delegate has packed, as a tensor of a Program.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "attach/packed_memory.h"
#include "base/file.h"
#include "base/hash.h"
#include "packed/layout.h"
#include "runtime/element_layout.h"
#include "runtime/tensor_spec.h"

namespace shira {

/// Who looks after the biases beside a packed matrix.
enum class PackedBiases : uint8_t {
  constant,  // they are what they were, always
  a_tensor   // there is a PackedBias, whose own elements they are
};

/// The elements of a packed matrix. What lies beside them is right as long as sums fit the codes,
/// and scales and constant biases are those that the matrix had when this was made.
class PackedElements final : public ElementLayout {
 public:
  /// REQUIRES: `packed` was calibrated with the layout, and outlives this.
  PackedElements(const PackedLayout& layout, uint8_t* packed, PackedBiases biases);

  const PackedLayout& layout() const { return layout_; }
  uint8_t* packed() const { return packed_; }

  uint64_t size_bytes() const override { return layout_.size_bytes(); }
  uint64_t group_elements() const override;
  ElementPlace place_of(uint32_t index) const override;
  void gather(const uint32_t* index, size_t count, uint8_t* out) const override;
  void store(const uint32_t* index, size_t count, const uint8_t* values) const override;
  void swap(const uint32_t* index, size_t count, const uint8_t* values,
            uint8_t* out) const override;
  void read(uint64_t first_index, uint64_t count, uint8_t* out) const override;
  Result<void> check_beside() const override;

 private:
  Hash128 hash_constants() const;

  const PackedLayout layout_;
  uint8_t* const packed_;
  const PackedBiases biases_;
  const Hash128 constants_;
};

/// The biases that are packed beside a matrix, one for each row. No sum depends on them.
class PackedBias final : public ElementLayout {
 public:
  /// REQUIRES: `packed` was calibrated with the layout, and outlives this.
  PackedBias(const PackedLayout& layout, uint8_t* packed) : layout_(layout), packed_(packed) {}

  uint64_t size_bytes() const override { return layout_.size_bytes(); }
  uint32_t plane() const override { return 1; }
  uint64_t group_elements() const override { return layout_.block_rows(); }
  ElementPlace place_of(uint32_t index) const override;
  void gather(const uint32_t* index, size_t count, uint8_t* out) const override;
  void store(const uint32_t* index, size_t count, const uint8_t* values) const override;
  void swap(const uint32_t* index, size_t count, const uint8_t* values,
            uint8_t* out) const override;
  void read(uint64_t first_index, uint64_t count, uint8_t* out) const override;

 private:
  const PackedLayout layout_;
  uint8_t* const packed_;
};

/// Where the program's file has what was packed: the codes, (rows, columns) one behind the other,
/// rows of 4-bit codes in whole bytes, the even column in the low half; or the biases, (rows,).
struct PackedSource {
  std::shared_ptr<const File> file;
  FileState state;  // when it was packed
  uint64_t offset_bytes = 0;
  uint8_t code_bias = 0;  // i4: what was added to a code to store it
};

// Tensors at `offset_bytes` of the memory. Each has a region of its own: read_source() takes
// addresses as if the elements lay one behind the other from the tensor's data on, and
// hard_revert() stores the file's elements. REQUIRES: what lies there was calibrated with the
// layout.

/// The matrix.
TensorSpec make_packed_tensor(std::string name, const PackedLayout& layout,
                              const std::shared_ptr<PackedMemory>& memory, uint64_t offset_bytes,
                              PackedSource source, PackedBiases biases);

/// Its biases. REQUIRES: the matrix is made with PackedBiases::a_tensor.
TensorSpec make_packed_bias(std::string name, const PackedLayout& layout,
                            const std::shared_ptr<PackedMemory>& memory, uint64_t offset_bytes,
                            PackedSource source);

}  // namespace shira
