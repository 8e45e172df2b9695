// Packed codes by their flat index, and the region that watches over them.
// SPDX-License-Identifier: Apache-2.0
#include "attach/packed_tensor.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/array.h"
#include "packed/patcher.h"
#include "runtime/element_ops.h"

namespace shira {

PackedElements::PackedElements(const PackedLayout& layout, uint8_t* packed, PackedBiases biases)
    : layout_(layout), packed_(packed), biases_(biases), constants_(hash_constants()) {}

Hash128 PackedElements::hash_constants() const {
  Hasher128 hasher;
  const uint32_t rows = layout_.block_rows();
  for (uint32_t row = 0; row < layout_.row_count(); row += rows) {
    // Rows of padding are nobody's elements.
    const uint32_t first_lane =
        biases_ == PackedBiases::a_tensor ? std::min(rows, layout_.row_count() - row) : 0;
    hasher.update(packed_ + layout_.bias(row) + uint64_t{first_lane} * layout_.bias_bytes(),
                  uint64_t{rows - first_lane} * layout_.bias_bytes());
    if (layout_.has_row_scales())
      hasher.update(packed_ + layout_.row_scale(row), rows * sizeof(float));
    const uint32_t group_count = layout_.is_grouped() ? layout_.group_count() : 0;
    for (uint32_t group = 0; group < group_count; ++group)
      hasher.update(packed_ + layout_.group_scale(row, group), rows * sizeof(uint16_t));
  }
  return hasher.digest();
}

uint64_t PackedElements::group_elements() const {
  return uint64_t{layout_.block_rows()} * layout_.column_count();
}

ElementPlace PackedElements::place_of(uint32_t index) const {
  const uint32_t row = index / layout_.column_count();
  const uint64_t offset_bytes = layout_.code(row, index % layout_.column_count()).offset_bytes;
  return {offset_bytes, layout_.has_sums() ? layout_.sum(row) : offset_bytes};
}

void PackedElements::gather(const uint32_t* index, size_t count, uint8_t* out) const {
  PackedPatcher(layout_, packed_).gather(index, count, out);
}

void PackedElements::store(const uint32_t* index, size_t count, const uint8_t* values) const {
  PackedPatcher(layout_, packed_).store(index, count, values);
}

void PackedElements::swap(const uint32_t* index, size_t count, const uint8_t* values,
                          uint8_t* out) const {
  PackedPatcher(layout_, packed_).swap(index, count, values, out);
}

void PackedElements::read(uint64_t first_index, uint64_t count, uint8_t* out) const {
  const uint32_t tile_columns = layout_.tile_columns();
  const uint64_t end_index = first_index + count;
  for (uint64_t index = first_index; index < end_index;) {
    const auto row = static_cast<uint32_t>(index / layout_.column_count());
    const auto column = static_cast<uint32_t>(index % layout_.column_count());
    const uint32_t tile = column - column % tile_columns;
    const uint32_t tile_end = std::min(tile + tile_columns, layout_.column_count());
    const auto end =
        static_cast<uint32_t>(std::min<uint64_t>(tile_end, column + (end_index - index)));
    alignas(64) uint8_t codes[PackedLayout::kTileBytes];
    layout_.read_codes(packed_, row, tile, end - tile, codes);
    const uint8_t* from = codes + uint64_t{column - tile} * layout_.element_bytes();
    const uint64_t size_bytes = uint64_t{end - column} * layout_.element_bytes();
    if (layout_.is_nibbles()) {
      for (uint64_t j = 0; j < size_bytes; ++j) out[j] = static_cast<uint8_t>(from[j] - 8);
    } else {
      std::memcpy(out, from, size_bytes);
    }
    out += size_bytes;
    index += end - column;
  }
}

Result<void> PackedElements::check_beside() const {
  uint32_t sums[PackedLayout::kMaxBlockRows];
  for (uint32_t row = 0; layout_.has_sums() && row < layout_.row_count();
       row += layout_.block_rows()) {
    const uint32_t row_count = std::min(layout_.block_rows(), layout_.row_count() - row);
    layout_.add_up_rows(packed_, row, row_count, sums);
    if (std::memcmp(packed_ + layout_.sum(row), sums, row_count * sizeof(uint32_t)) == 0) continue;
    uint32_t lane = 0;
    while (std::memcmp(packed_ + layout_.sum(row + lane), sums + lane, sizeof(uint32_t)) == 0)
      ++lane;
    Error error{Status::BASE_MODIFIED, "the sum of row " + std::to_string(row + lane) +
                                           " is not that of its codes in the packed weight"};
    error.offset_bytes = layout_.sum(row + lane);
    return error;
  }
  if (hash_constants() == constants_) return {};
  return Error{Status::BASE_MODIFIED, "scales or biases of the packed weight were changed"};
}

ElementPlace PackedBias::place_of(uint32_t index) const {
  return {layout_.bias(index), layout_.bias(index)};
}

void PackedBias::gather(const uint32_t* index, size_t count, uint8_t* out) const {
  const size_t bias_bytes = layout_.bias_bytes();
  for (size_t j = 0; j < count; ++j)
    std::memcpy(out + j * bias_bytes, packed_ + layout_.bias(index[j]), bias_bytes);
}

void PackedBias::store(const uint32_t* index, size_t count, const uint8_t* values) const {
  const size_t bias_bytes = layout_.bias_bytes();
  for (size_t j = 0; j < count; ++j)
    std::memcpy(packed_ + layout_.bias(index[j]), values + j * bias_bytes, bias_bytes);
}

void PackedBias::swap(const uint32_t* index, size_t count, const uint8_t* values,
                      uint8_t* out) const {
  gather(index, count, out);
  store(index, count, values);
}

void PackedBias::read(uint64_t first_index, uint64_t count, uint8_t* out) const {
  const size_t bias_bytes = layout_.bias_bytes();
  for (uint64_t j = 0; j < count; ++j) {
    const auto row = static_cast<uint32_t>(first_index + j);
    std::memcpy(out + j * bias_bytes, packed_ + layout_.bias(row), bias_bytes);
  }
}

namespace {

constexpr uint64_t kChunkBytes = uint64_t{1} << 20;

/// What is read out of the file, for `count` elements.
struct SourceElements {
  uint64_t count;
  uint64_t element_bytes;       // in memory
  uint64_t nibble_columns = 0;  // i4: a row begins a byte; 0: elements lie as in memory
};

/// Of one tensor.
class PackedRegion final : public Region {
 public:
  PackedRegion(std::shared_ptr<const ElementLayout> layout, const uint8_t* packed,
               const SourceElements& elements, std::shared_ptr<PackedMemory> memory,
               PackedSource source)
      : layout_(std::move(layout)),
        packed_(packed),
        elements_(elements),
        memory_(std::move(memory)),
        source_(std::move(source)) {}

  Result<void> check(const ProcessMaps& maps, const uint8_t* data,
                     uint64_t size_bytes) const override {
    return memory_->check(maps, data, size_bytes);
  }

  bool has_source() const override { return true; }

  Result<void> read_source(const uint8_t* data, uint64_t size_bytes, uint8_t* out) const override {
    const auto first_byte = static_cast<uint64_t>(data - packed_);
    SHIRA_ASSIGN(const FileState now, source_.file->state());
    if (!(now == source_.state)) {
      return source_.file->error(Status::DETACHED,
                                 "the file was modified after its weights were packed");
    }
    if (!is_nibbles()) return read_file(first_byte, size_bytes, out);

    const uint64_t end = first_byte + size_bytes;  // an element is a byte here
    const uint64_t begin_bytes = nibble_byte(first_byte);
    SHIRA_ASSIGN(Array<uint8_t> bytes,
                 Array<uint8_t>::make(nibble_byte(end - 1) + 1 - begin_bytes));
    SHIRA_TRY(read_file(begin_bytes, bytes.size(), bytes.data()));
    const uint64_t columns = elements_.nibble_columns;
    const uint32_t flip = source_.code_bias ^ 8U;
    for (uint64_t index = first_byte; index < end;) {
      const uint8_t* row = bytes.data() + nibble_byte(index) - begin_bytes;
      const uint64_t begin_column = index % columns;
      const uint64_t end_column = std::min(columns, begin_column + (end - index));
      for (uint64_t column = begin_column; column < end_column; ++column) {
        const uint32_t byte = row[column / 2 - begin_column / 2];
        *out++ = static_cast<uint8_t>(((byte >> column % 2 * 4 & 15U) ^ flip) - 8U);
      }
      index += end_column - begin_column;
    }
    return {};
  }

  uint64_t cold_source_bytes(const uint8_t* data, uint64_t size_bytes) const override {
    auto begin = static_cast<uint64_t>(data - packed_);
    uint64_t end = begin + size_bytes;
    if (is_nibbles()) {
      begin = nibble_byte(begin);
      end = nibble_byte(end - 1) + 1;
    }
    return source_.file->count_cold_bytes(source_.offset_bytes + begin, end - begin);
  }

  Result<void> hard_revert() override {
    const DefaultFloatMode float_mode;
    const uint64_t element_bytes = elements_.element_bytes;
    const uint64_t chunk = std::min(kChunkBytes / element_bytes, elements_.count);
    SHIRA_ASSIGN(Array<uint8_t> values, Array<uint8_t>::make(chunk * element_bytes));
    SHIRA_ASSIGN(Array<uint32_t> index, Array<uint32_t>::make(chunk));
    for (uint64_t first = 0; first < elements_.count; first += chunk) {
      const uint64_t count = std::min(chunk, elements_.count - first);
      SHIRA_TRY(read_source(packed_ + first * element_bytes, count * element_bytes, values.data()));
      std::iota(index.data(), index.data() + count, static_cast<uint32_t>(first));
      layout_->store(index.data(), count, values.data());
    }
    return {};
  }

 private:
  bool is_nibbles() const { return elements_.nibble_columns != 0; }

  /// The byte, from the beginning of the codes on, that has a code of 4 bits.
  uint64_t nibble_byte(uint64_t index) const {
    const uint64_t columns = elements_.nibble_columns;
    return index / columns * ((columns + 1) / 2) + index % columns / 2;
  }

  Result<void> read_file(uint64_t first_byte, uint64_t size_bytes, uint8_t* out) const {
    SHIRA_ASSIGN(const uint64_t done_bytes,
                 source_.file->read_at(source_.offset_bytes + first_byte, size_bytes, out));
    if (done_bytes == size_bytes) return {};
    return source_.file->error(Status::DETACHED, "the file was truncated while it was read");
  }

  const std::shared_ptr<const ElementLayout> layout_;
  const uint8_t* const packed_;
  const SourceElements elements_;
  const std::shared_ptr<PackedMemory> memory_;
  const PackedSource source_;
};

}  // namespace

TensorSpec make_packed_tensor(std::string name, const PackedLayout& layout,
                              const std::shared_ptr<PackedMemory>& memory, uint64_t offset_bytes,
                              PackedSource source, PackedBiases biases) {
  TensorSpec spec;
  spec.name = std::move(name);
  spec.dtype = layout.family().dtype;
  spec.dims = {layout.row_count(), layout.column_count()};
  spec.data = memory->data() + offset_bytes;
  spec.layout = std::make_shared<PackedElements>(layout, spec.data, biases);
  const SourceElements elements{uint64_t{layout.row_count()} * layout.column_count(),
                                layout.element_bytes(),
                                layout.is_nibbles() ? layout.column_count() : 0};
  spec.region =
      std::make_shared<PackedRegion>(spec.layout, spec.data, elements, memory, std::move(source));
  return spec;
}

TensorSpec make_packed_bias(std::string name, const PackedLayout& layout,
                            const std::shared_ptr<PackedMemory>& memory, uint64_t offset_bytes,
                            PackedSource source) {
  TensorSpec spec;
  spec.name = std::move(name);
  spec.dtype = layout.family().dtype == Dtype::f16 ? Dtype::f16 : Dtype::f32;
  spec.dims = {layout.row_count()};
  spec.data = memory->data() + offset_bytes;
  spec.layout = std::make_shared<PackedBias>(layout, spec.data);
  const SourceElements elements{layout.row_count(), layout.bias_bytes()};
  spec.region =
      std::make_shared<PackedRegion>(spec.layout, spec.data, elements, memory, std::move(source));
  return spec;
}

}  // namespace shira
