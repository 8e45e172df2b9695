// Reading and writing halves of bytes. Rows have whole bytes, so that a flat index is all it takes.
// SPDX-License-Identifier: Apache-2.0
#include "attach/nibble_rows.h"

#include <cstddef>

namespace shira {
namespace {

unsigned shift_of(uint64_t index) { return index % 2 == 0 ? 4 : 0; }

uint8_t code_in(uint8_t byte, uint64_t index) {
  return static_cast<uint8_t>((byte >> shift_of(index) & 15) - 8);
}

void put_into(uint8_t* byte, uint64_t index, uint8_t code) {
  const auto nibble = static_cast<uint8_t>((code + 8U) & 15U);
  *byte = static_cast<uint8_t>((*byte & ~(15U << shift_of(index))) | nibble << shift_of(index));
}

// Calls entry(j, byte that has element index[j]) for every j. Entries lie far apart, so that their
// cache lines are asked for ahead, to read (0) or to write (1).
template <int kWrites, typename Entry>
void for_each_byte(uint8_t* table, const uint32_t* index, size_t count, Entry entry) {
  constexpr size_t kAhead = 96;
  for (size_t j = 0; j < count; ++j) {
    if (count - j > kAhead) __builtin_prefetch(table + index[j + kAhead] / 2, kWrites);
    entry(j, table[index[j] / 2]);
  }
}

class NibbleRows : public ElementLayout {
 public:
  NibbleRows(uint8_t* table, uint64_t size_bytes) : table_(table), size_bytes_(size_bytes) {}

  uint64_t size_bytes() const override { return size_bytes_; }
  uint64_t group_elements() const override { return 2; }
  ElementPlace place_of(uint32_t index) const override { return {index / 2, index / 2}; }

  void gather(const uint32_t* index, size_t count, uint8_t* out) const override {
    for_each_byte<0>(table_, index, count,
                     [=](size_t j, uint8_t& byte) { out[j] = code_in(byte, index[j]); });
  }

  void store(const uint32_t* index, size_t count, const uint8_t* values) const override {
    for_each_byte<1>(table_, index, count,
                     [=](size_t j, uint8_t& byte) { put_into(&byte, index[j], values[j]); });
  }

  void swap(const uint32_t* index, size_t count, const uint8_t* values,
            uint8_t* out) const override {
    for_each_byte<1>(table_, index, count, [=](size_t j, uint8_t& byte) {
      out[j] = code_in(byte, index[j]);
      put_into(&byte, index[j], values[j]);
    });
  }

  void read(uint64_t first_index, uint64_t count, uint8_t* out) const override {
    unpack(table_ + first_index / 2, first_index, count, out);
  }

  // Elements take one byte each where they lie one behind the other.
  Result<void> read_source(const Region& region, const uint8_t* data, uint64_t offset_bytes,
                           uint64_t size_bytes, uint8_t* out) const override {
    const uint64_t source_bytes = bytes_of(offset_bytes, size_bytes);
    // At the end of `out`, so that no byte is written over before both of its codes were read.
    uint8_t* source = out + size_bytes - source_bytes;
    SHIRA_TRY(region.read_source(data + offset_bytes / 2, source_bytes, source));
    unpack(source, offset_bytes, size_bytes, out);
    return {};
  }

  uint64_t cold_source_bytes(const Region& region, const uint8_t* data, uint64_t offset_bytes,
                             uint64_t size_bytes) const override {
    return region.cold_source_bytes(data + offset_bytes / 2, bytes_of(offset_bytes, size_bytes));
  }

 private:
  // How many bytes these elements lie in.
  static uint64_t bytes_of(uint64_t first_index, uint64_t count) {
    return count == 0 ? 0 : (first_index + count + 1) / 2 - first_index / 2;
  }

  static void unpack(const uint8_t* bytes, uint64_t first_index, uint64_t count, uint8_t* out) {
    const uint64_t first_in_byte = first_index % 2;
    for (uint64_t i = 0; i < count; ++i)
      out[i] = code_in(bytes[(first_in_byte + i) / 2], first_index + i);
  }

  uint8_t* const table_;
  const uint64_t size_bytes_;
};

}  // namespace

std::shared_ptr<const ElementLayout> make_nibble_rows(uint8_t* table, uint32_t row_count,
                                                      uint32_t column_count) {
  return std::make_shared<NibbleRows>(table, uint64_t{row_count} * column_count / 2);
}

}  // namespace shira
