// Test helper: a layout that turns elements around inside of blocks, with a checksum for each row.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cfenv>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/dtype.h"
#include "runtime/element_layout.h"
#include "shb_builder.h"

namespace shira::testing {

/// Rows lie in blocks: first a checksum of four bytes for each row, then the block's elements from
/// the last one to the first, i4 in nibbles. Rows of a block share bytes where columns are odd.
class FakeLayout : public ElementLayout {
 public:
  FakeLayout(Dtype dtype, uint32_t rows, uint32_t columns, uint32_t block_rows)
      : element_bits_(dtype == Dtype::i4 ? 4 : 8 * static_cast<uint32_t>(dtype_bytes(dtype))),
        element_bytes_(dtype_bytes(dtype)),
        rows_(rows),
        columns_(columns),
        block_rows_(block_rows),
        writers_((rows + block_rows - 1) / block_rows) {}

  /// Where the elements are from now on.
  void bind(uint8_t* data) { data_ = data; }

  /// The packed bytes of these elements.
  Bytes pack(const Bytes& elements) const {
    Bytes packed(size_bytes(), 0xEE);
    for (uint64_t i = 0; i < numel(); ++i) {
      uint32_t bits = 0;
      std::memcpy(&bits, &elements[i * element_bytes_], element_bytes_);
      set(packed.data(), i, bits);
    }
    for (uint32_t row = 0; row < rows_; ++row) set_sum(packed.data(), row);
    return packed;
  }

  /// The elements in these packed bytes.
  Bytes unpack(const uint8_t* packed) const {
    Bytes elements(numel() * element_bytes_);
    for (uint64_t i = 0; i < numel(); ++i) {
      const uint32_t bits = get(packed, i);
      std::memcpy(&elements[i * element_bytes_], &bits, element_bytes_);
    }
    return elements;
  }

  /// True when a group was written by two threads since the last call.
  bool was_shared_by_threads() {
    bool is_shared = false;
    for (auto& writer : writers_) is_shared |= writer.exchange(kNobody) == kSeveral;
    return is_shared;
  }

  uint64_t size_bytes() const override { return writers_.size() * block_bytes(); }
  uint64_t group_elements() const override { return uint64_t{block_rows_} * columns_; }
  ElementPlace place_of(uint32_t index) const override {
    return {block_of(index) + sums_bytes() + slot(index) * element_bits_ / 8,
            sum_of(row_of(index))};
  }

  void gather(const uint32_t* index, size_t count, uint8_t* out) const override {
    check(index, count);
    for (size_t j = 0; j < count; ++j) {
      const uint32_t bits = get(data_, index[j]);
      std::memcpy(out + j * element_bytes_, &bits, element_bytes_);
    }
  }

  void store(const uint32_t* index, size_t count, const uint8_t* values) const override {
    check(index, count);
    for (size_t j = 0; j < count; ++j) {
      note_writer(index[j] / group_elements());
      uint32_t bits = 0;
      std::memcpy(&bits, values + j * element_bytes_, element_bytes_);
      set(data_, index[j], bits);
      if (j + 1 == count || row_of(index[j + 1]) != row_of(index[j])) {
        set_sum(data_, row_of(index[j]));
      }
    }
  }

  void swap(const uint32_t* index, size_t count, const uint8_t* values,
            uint8_t* out) const override {
    gather(index, count, out);
    store(index, count, values);
  }

  void read(uint64_t first_index, uint64_t count, uint8_t* out) const override {
    for (uint64_t i = 0; i < count; ++i) {
      const uint32_t bits = get(data_, first_index + i);
      std::memcpy(out + i * element_bytes_, &bits, element_bytes_);
    }
  }

  Result<void> check_beside() const override {
    Bytes copy(data_, data_ + size_bytes());
    for (uint32_t row = 0; row < rows_; ++row) {
      set_sum(copy.data(), row);
      if (std::memcmp(copy.data() + sum_of(row), data_ + sum_of(row), sizeof(uint32_t)) != 0) {
        return Error{Status::BASE_MODIFIED, "a checksum is wrong", {}, {}, sum_of(row)};
      }
    }
    return {};
  }

 private:
  static constexpr size_t kNobody = 0;
  static constexpr size_t kSeveral = 1;

  uint64_t numel() const { return uint64_t{rows_} * columns_; }
  uint32_t row_of(uint64_t index) const { return static_cast<uint32_t>(index / columns_); }
  uint64_t sums_bytes() const { return block_rows_ * sizeof(uint32_t); }
  uint64_t block_bytes() const {
    return sums_bytes() + (group_elements() * element_bits_ / 8 + sizeof(uint32_t)) / 4 * 4;
  }
  uint64_t block_of(uint64_t index) const { return index / group_elements() * block_bytes(); }
  uint64_t slot(uint64_t index) const { return group_elements() - 1 - index % group_elements(); }
  uint64_t sum_of(uint32_t row) const {
    return row / block_rows_ * block_bytes() + row % block_rows_ * sizeof(uint32_t);
  }

  uint32_t get(const uint8_t* packed, uint64_t index) const {
    const uint8_t* codes = packed + block_of(index) + sums_bytes();
    if (element_bits_ == 4) {
      const uint32_t nibble = static_cast<uint32_t>(codes[slot(index) / 2]) >> slot(index) % 2 * 4;
      return static_cast<uint8_t>(static_cast<int>((nibble & 15U) ^ 8U) - 8);
    }
    uint32_t bits = 0;
    std::memcpy(&bits, codes + slot(index) * element_bytes_, element_bytes_);
    return bits;
  }

  void set(uint8_t* packed, uint64_t index, uint32_t bits) const {
    uint8_t* codes = packed + block_of(index) + sums_bytes();
    if (element_bits_ == 4) {
      const unsigned shift = slot(index) % 2 * 4;
      uint8_t& byte = codes[slot(index) / 2];
      byte = static_cast<uint8_t>((byte & ~(15U << shift)) | (bits & 15U) << shift);
      return;
    }
    std::memcpy(codes + slot(index) * element_bytes_, &bits, element_bytes_);
  }

  void set_sum(uint8_t* packed, uint32_t row) const {
    uint32_t sum = 0;
    for (uint32_t column = 0; column < columns_; ++column)
      sum += get(packed, uint64_t{row} * columns_ + column) * (2 * column + 1);
    std::memcpy(packed + sum_of(row), &sum, sizeof(sum));
  }

  // What the contract promises to every call that writes or gathers.
  void check(const uint32_t* index, size_t count) const {
    bool is_right = std::fegetround() == FE_TONEAREST && count > 0 && index[count - 1] < numel();
    for (size_t j = 1; j < count; ++j) is_right = is_right && index[j - 1] < index[j];
    if (!is_right) std::abort();
  }

  void note_writer(uint64_t group) const {
    const size_t self = std::hash<std::thread::id>()(std::this_thread::get_id()) | 2U;
    std::atomic<size_t>& writer = writers_[group];
    const size_t before = writer.load(std::memory_order_relaxed);
    if (before != self)
      writer.store(before == kNobody ? self : kSeveral, std::memory_order_relaxed);
  }

  const uint32_t element_bits_;
  const size_t element_bytes_;
  const uint32_t rows_;
  const uint32_t columns_;
  const uint32_t block_rows_;
  uint8_t* data_ = nullptr;
  mutable std::vector<std::atomic<size_t>> writers_;  // of each group
};

}  // namespace shira::testing
