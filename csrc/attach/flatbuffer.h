// A bounds-checked view of a flatbuffer that nobody vouches for: tables, vectors and strings.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "base/byte_reader.h"
#include "base/result.h"

namespace shira {

/// The bytes and what became of reading them. The first problem is kept, and from then on every
/// accessor answers 0 or "absent", so that callers check ok() once per loop step and at the end.
/// The work is bounded by the size: each visit of a table, vector or string is paid for, because a
/// hostile file could point a million entries at the same megabyte.
class Flatbuffer {
 public:
  Flatbuffer(const uint8_t* bytes, size_t size_bytes)
      : bytes_(bytes, size_bytes), work_left_bytes_(2 * static_cast<uint64_t>(size_bytes)) {}

  bool ok() const { return problem_.empty(); }
  const std::string& problem() const { return problem_; }
  uint64_t problem_offset_bytes() const { return problem_offset_bytes_; }

  void fail(uint64_t offset_bytes, std::string problem) {
    if (!ok()) return;
    problem_ = std::move(problem);
    problem_offset_bytes_ = offset_bytes;
  }

  /// The little-endian integer at `position`.
  template <typename T>
  T number(uint64_t position) {
    std::make_unsigned_t<T> value = 0;
    if (ok() && !bytes_.read(position, &value)) {
      fail(position,
           "a field points outside the flatbuffer of " + std::to_string(bytes_.size()) + " bytes");
    }
    return static_cast<T>(value);
  }

  /// Takes `cost_bytes` off the work that is left; false when there is not enough.
  bool pay(uint64_t position, uint64_t cost_bytes) {
    if (cost_bytes > work_left_bytes_) {
      fail(position, "the file describes more entries than it has bytes for");
    } else {
      work_left_bytes_ -= cost_bytes;
    }
    return ok();
  }

  /// Checks that [position, position + size_bytes) lies inside, and pays for it.
  bool visit(uint64_t position, uint64_t size_bytes) {
    if (!bytes_.contains(position, size_bytes)) {
      fail(position, "a list or string of " + std::to_string(size_bytes) +
                         " bytes runs past the flatbuffer of " + std::to_string(bytes_.size()) +
                         " bytes");
    }
    return ok() && pay(position, size_bytes);
  }

  std::string_view text(uint64_t position, uint64_t size_bytes) const {
    const ByteReader part = bytes_.slice(position, size_bytes);
    return {reinterpret_cast<const char*>(part.data()), part.size()};
  }

 private:
  ByteReader bytes_;
  uint64_t work_left_bytes_;
  std::string problem_;
  uint64_t problem_offset_bytes_ = 0;
};

/// A vector's items: `count` of them from `position`. Empty when the field is absent.
struct FlatVector {
  uint64_t position = 0;
  uint32_t count = 0;
};

/// One table: an offset back to its list of field offsets, then the fields. May be absent.
class FlatTable {
 public:
  FlatTable() = default;

  FlatTable(Flatbuffer* buffer, uint64_t position) : buffer_(buffer), position_(position) {
    if (!buffer->pay(position, kTableCostBytes)) return;
    // Wraps around when the list would lie before the file; the reads below then fail.
    fields_ = position - static_cast<uint64_t>(int64_t{buffer->number<int32_t>(position)});
    fields_bytes_ = buffer->number<uint16_t>(fields_);
    table_bytes_ = buffer->number<uint16_t>(fields_ + sizeof(uint16_t));
    if (fields_bytes_ < 2 * sizeof(uint16_t) || fields_bytes_ % sizeof(uint16_t) != 0 ||
        table_bytes_ < sizeof(int32_t)) {
      buffer->fail(position, "a table of " + std::to_string(table_bytes_) +
                                 " bytes and a list of " + std::to_string(fields_bytes_) +
                                 " bytes of fields cannot be");
    }
    present_ = buffer->ok();
  }

  /// The table that the first four bytes of the buffer point to.
  static FlatTable root(Flatbuffer* buffer) { return {buffer, buffer->number<uint32_t>(0)}; }

  explicit operator bool() const { return present_; }
  uint64_t position() const { return position_; }

  /// The schema's default is 0 for every scalar that is read here.
  template <typename T>
  T scalar(unsigned field) const {
    const uint64_t position = field_position(field, sizeof(T));
    return position == 0 ? T{0} : buffer_->number<T>(position);
  }

  FlatTable table(unsigned field) const {
    const uint64_t target = target_position(field);
    return target == 0 ? FlatTable() : FlatTable(buffer_, target);
  }

  FlatVector vector(unsigned field, uint32_t item_bytes) const {
    const uint64_t target = target_position(field);
    if (target == 0) return {};
    const auto count = buffer_->number<uint32_t>(target);
    const uint64_t first = target + sizeof(uint32_t);
    if (!buffer_->visit(first, uint64_t{count} * item_bytes)) return {};
    return {first, count};
  }

  std::string_view string(unsigned field) const {
    const FlatVector bytes = vector(field, 1);
    return bytes.count == 0 ? std::string_view() : buffer_->text(bytes.position, bytes.count);
  }

  /// Item `index` of a vector of tables. REQUIRES: index < tables.count.
  FlatTable item(const FlatVector& tables, uint32_t index) const {
    const uint64_t position = tables.position + uint64_t{index} * sizeof(uint32_t);
    return {buffer_, position + buffer_->number<uint32_t>(position)};
  }

 private:
  // About what a table takes in a file, with its place in a list.
  static constexpr uint64_t kTableCostBytes = 16;

  /// 0 when the file leaves the field at its default.
  uint64_t field_position(unsigned field, size_t width_bytes) const {
    const uint64_t slot = sizeof(uint16_t) * (2 + uint64_t{field});
    if (!present_ || slot + sizeof(uint16_t) > fields_bytes_) return 0;
    const auto offset = buffer_->number<uint16_t>(fields_ + slot);
    if (offset == 0) return 0;
    if (offset < sizeof(int32_t) || offset + width_bytes > table_bytes_) {
      buffer_->fail(position_, "field " + std::to_string(field) + " lies outside its table");
      return 0;
    }
    return position_ + offset;
  }

  uint64_t target_position(unsigned field) const {
    const uint64_t position = field_position(field, sizeof(uint32_t));
    return position == 0 ? 0 : position + buffer_->number<uint32_t>(position);
  }

  Flatbuffer* buffer_ = nullptr;
  uint64_t position_ = 0;
  uint64_t fields_ = 0;
  uint16_t fields_bytes_ = 0;
  uint16_t table_bytes_ = 0;
  bool present_ = false;
};

}  // namespace shira
