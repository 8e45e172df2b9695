// Record: a header or table row of a .shb file, whose fields and errors know their place.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "base/byte_reader.h"
#include "base/result.h"

namespace shira {

/// The fields from `offset` of the file on. Fields are given by their offset in the record, as in
/// the tables of docs/FORMAT.md; errors name the place in the file.
class Record {
 public:
  Record(ByteReader file, uint64_t offset) : file_(file), offset_(offset) {}

  uint64_t offset() const { return offset_; }
  const uint8_t* bytes(uint64_t field) const { return file_.data() + offset_ + field; }
  uint8_t u8(uint64_t field) const { return file_.u8(offset_ + field); }
  uint16_t u16(uint64_t field) const { return file_.u16(offset_ + field); }
  uint32_t u32(uint64_t field) const { return file_.u32(offset_ + field); }
  uint64_t u64(uint64_t field) const { return file_.u64(offset_ + field); }

  /// From now on errors are about this tensor.
  void set_tensor(std::string_view name) { tensor_ = name; }

  Error refuse(Status status, uint64_t field, std::string message) const {
    return refuse_at(status, offset_ + field, std::move(message));
  }

  /// The same for a place elsewhere in the file.
  Error refuse_at(Status status, uint64_t file_offset, std::string message) const {
    return Error{status, std::move(message), {}, std::string(tensor_), file_offset};
  }

  /// Bytes [begin, end) of the record are zero: RESERVED_NOT_ZERO at the first that is not.
  Result<void> check_zero(uint64_t begin, uint64_t end, const char* what) const {
    return check_zero_at(offset_ + begin, offset_ + end, what);
  }

  /// The same for bytes [begin, end) of the file.
  Result<void> check_zero_at(uint64_t begin, uint64_t end, const char* what) const {
    for (uint64_t offset = begin; offset < end; ++offset) {
      if (file_.u8(offset) != 0) {
        return refuse_at(Status::RESERVED_NOT_ZERO, offset, std::string(what) + " is not zero");
      }
    }
    return {};
  }

 private:
  ByteReader file_;
  uint64_t offset_;
  std::string_view tensor_;
};

}  // namespace shira
