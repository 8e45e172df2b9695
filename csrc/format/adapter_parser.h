// AdapterParser: every rule of docs/FORMAT.md, checked in one pass over the bytes of a .shb file.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/byte_reader.h"
#include "format/adapter_file.h"

namespace shira {

/// Checks the header of a file of `file_bytes` bytes by itself, so that a file of another kind or
/// length is refused before memory is spent on it. `start` holds its first min(128, file_bytes)
/// bytes.
Result<void> check_header(ByteReader start, uint64_t file_bytes);

/// Makes an AdapterFile from the bytes of a .shb file. Errors carry tensor and offset; the label is
/// the caller's to add.
class AdapterParser {
 public:
  static Result<std::shared_ptr<const AdapterFile>> parse(Array<uint8_t> bytes,
                                                          const std::string& label);

 private:
  explicit AdapterParser(AdapterFile* file);

  Result<void> parse_all();
  Result<void> parse_section_table();
  Result<void> check_section_row(uint32_t section_index, uint64_t expected_offset);
  Result<void> check_section_bytes(uint32_t section_index);
  Result<void> parse_adapter_row();
  Result<void> parse_tensor_table();
  // `row` is the offset of the tensor's row in the file.
  Result<void> parse_tensor(uint64_t row, AdapterTensor* tensor);
  Result<void> parse_types(uint64_t row, AdapterTensor* tensor);
  Result<void> check_flags(uint64_t row);
  Result<void> parse_shape(uint64_t row, AdapterTensor* tensor);
  Result<void> parse_counts(uint64_t row, AdapterTensor* tensor);
  Result<void> parse_streams(uint64_t row, AdapterTensor* tensor);
  Result<void> check_values(const AdapterTensor& tensor);
  Result<void> parse_metadata();

  Result<std::string> take_name(uint64_t row);
  Result<uint64_t> take_stream(uint32_t section_index, uint64_t* end, uint64_t offset_field,
                               uint64_t size_field, uint64_t size_bytes);
  Result<void> check_covered(uint32_t section_index, uint64_t end, const char* what) const;
  Result<void> check_row_count(uint32_t section_index, uint64_t row_count,
                               uint64_t row_bytes) const;
  Result<void> check_zero(uint64_t begin, uint64_t end, const char* what) const;

  const SectionInfo& section(uint32_t section_index) const;
  uint64_t section_end(uint32_t section_index) const;
  Error fail(Status status, uint64_t offset_bytes, std::string message) const;

  AdapterFile& file_;
  ByteReader bytes_;
  std::string tensor_name_;  // of the tensor at hand, for errors
  // Offsets in the file where the next name and the next streams are due.
  uint64_t name_end_ = 0;
  uint64_t index_end_ = 0;
  uint64_t value_end_ = 0;
};

}  // namespace shira
