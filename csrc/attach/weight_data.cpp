// Reads parts of a program's files and widens what is in them.
// SPDX-License-Identifier: Apache-2.0
#include "attach/weight_data.h"

#include <cstring>
#include <utility>

#include "attach/program_head.h"
#include "base/dtype.h"
#include "base/file.h"

namespace shira {
namespace {

/// `expansion`: bytes in memory for each byte of the file, in the end.
Result<Array<uint8_t>> read_bytes(const ProgramWeight& weight, const WeightBytes& bytes,
                                  const std::vector<std::string>& paths, uint64_t expansion) {
  const FileRange& range = bytes.range;
  if (range.size_bytes == 0) return Array<uint8_t>();
  const auto read = [&]() -> Result<Array<uint8_t>> {
    SHIRA_ASSIGN(const File file, File::open(paths[bytes.file_index]));
    SHIRA_TRY(file.check_fits_memory(expansion * range.size_bytes));
    SHIRA_ASSIGN(Array<uint8_t> content,
                 Array<uint8_t>::make(static_cast<size_t>(range.size_bytes)));
    SHIRA_ASSIGN(const uint64_t got,
                 file.read_at(range.offset_bytes, range.size_bytes, content.data()));
    if (got != range.size_bytes) {
      return truncated_program_file(file.path(), range.end_bytes(), range.offset_bytes + got);
    }
    return content;
  };
  Result<Array<uint8_t>> content = read();
  if (!content.ok()) content.error().tensor = weight.name;
  return content;
}

}  // namespace

Result<Array<uint8_t>> read_weight_codes(const ProgramWeight& weight,
                                         const std::vector<std::string>& paths) {
  const bool is_nibbles = weight.dtype == Dtype::i4;
  SHIRA_ASSIGN(Array<uint8_t> packed, read_bytes(weight, weight.codes, paths, is_nibbles ? 3 : 1));
  if (!is_nibbles) return packed;
  const size_t row_count = weight.dims[0];
  const size_t column_count = weight.dims[1];
  const size_t row_bytes = (column_count + 1) / 2;
  const unsigned even_shift = weight.storage == WeightStorage::nibble_table ? 4 : 0;
  SHIRA_ASSIGN(Array<uint8_t> codes, Array<uint8_t>::make(row_count * column_count));
  for (size_t row = 0; row < row_count; ++row) {
    const uint8_t* from = &packed[row * row_bytes];
    uint8_t* to = &codes[row * column_count];
    for (size_t column = 0; column < column_count; ++column) {
      const unsigned shift = column % 2 == 0 ? even_shift : 4 - even_shift;
      to[column] = static_cast<uint8_t>(((from[column / 2] >> shift) & 15) - weight.code_bias);
    }
  }
  return codes;
}

Result<Array<float>> read_weight_floats(const ProgramWeight& weight, const WeightBytes& bytes,
                                        Dtype dtype, const std::vector<std::string>& paths) {
  SHIRA_ASSIGN(const Array<uint8_t> content, read_bytes(weight, bytes, paths, 3));
  const size_t element_bytes = dtype_bytes(dtype);
  SHIRA_ASSIGN(Array<float> numbers, Array<float>::make(content.size() / element_bytes));
  for (size_t i = 0; i < numbers.size(); ++i) {
    const uint8_t* element = &content[i * element_bytes];
    if (dtype == Dtype::f32) {
      memcpy(&numbers[i], element, sizeof(float));
    } else {
      uint16_t bits = 0;
      memcpy(&bits, element, sizeof(bits));
      numbers[i] = dtype == Dtype::f16 ? f16_to_f32(bits) : bf16_to_f32(bits);
    }
  }
  return numbers;
}

}  // namespace shira
