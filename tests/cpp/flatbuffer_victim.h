// FlatbufferVictim: a flatbuffer to be damaged.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "attach_fixtures.h"

namespace shira::test {

/// Finds fields by the rules of the encoding, without any check.
class FlatbufferVictim {
 public:
  explicit FlatbufferVictim(Bytes bytes) : bytes_(std::move(bytes)) {}

  const Bytes& bytes() const { return bytes_; }
  Bytes& bytes() { return bytes_; }

  template <typename T>
  T get(size_t position) const {
    T value;
    memcpy(&value, &bytes_.at(position), sizeof(value));
    return value;
  }
  template <typename T>
  void put(size_t position, T value) {
    memcpy(&bytes_.at(position), &value, sizeof(value));
  }

  size_t list_of_fields(size_t table) const { return table - get<int32_t>(table); }
  size_t slot(size_t table, unsigned number) const {
    return list_of_fields(table) + 4 + 2 * size_t{number};
  }
  size_t field(size_t table, unsigned number) const {
    return table + get<uint16_t>(slot(table, number));
  }
  size_t follow(size_t position) const { return position + get<uint32_t>(position); }
  size_t child(size_t table, unsigned number) const { return follow(field(table, number)); }
  size_t item_reference(size_t table, unsigned number, size_t index) const {
    return child(table, number) + 4 + 4 * index;
  }
  size_t item(size_t table, unsigned number, size_t index) const {
    return follow(item_reference(table, number, index));
  }

 private:
  Bytes bytes_;
};

}  // namespace shira::test
