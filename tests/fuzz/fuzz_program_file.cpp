// Fuzz target: the tables of a .pte (fuzz_pte) or .ptd (fuzz_ptd), and a program's weights.
// Whatever they say, every range lies in the file. SPDX-License-Identifier: Apache-2.0
#include <cstring>
#include <vector>

#include "attach/program_file.h"
#include "attach/program_weights.h"
#include "check.h"
#include "memory_meter.h"

namespace shira::fuzz {
namespace {

void check_range(uint64_t offset_bytes, uint64_t size_bytes, uint64_t file_bytes) {
  FUZZ_CHECK(offset_bytes <= file_bytes && size_bytes <= file_bytes - offset_bytes);
}

void check_tensor(const ProgramTensor& tensor, uint64_t file_bytes) {
  FUZZ_CHECK(!tensor.name.empty());
  check_range(tensor.offset_bytes, tensor.size_bytes, file_bytes);
  check_range(tensor.load.offset_bytes, tensor.load.size_bytes, file_bytes);
  FUZZ_CHECK(tensor.offset_bytes >= tensor.load.offset_bytes);
  FUZZ_CHECK(tensor.end_bytes() <= tensor.load.end_bytes());
  FUZZ_CHECK(tensor.patchable == tensor.why_not.empty());
  if (!tensor.patchable) return;
  uint64_t size_bytes = dtype_bytes(tensor.dtype);
  for (const uint32_t dim : tensor.dims) size_bytes *= dim;
  FUZZ_CHECK(size_bytes == tensor.size_bytes && size_bytes > 0);
  FUZZ_CHECK(tensor.offset_bytes % dtype_bytes(tensor.dtype) == 0);
}

void parse(const std::vector<uint8_t>& bytes) {
  const MemoryMeter meter;
  const auto file = parse_program_file(bytes.data(), bytes.size(), "fuzz");
  FUZZ_CHECK(meter.peak_bytes() <= 64 * 1024 + 64 * bytes.size());
  if (!file.ok()) {
    FUZZ_CHECK(file.error().status == Status::BAD_PROGRAM_FILE ||
               file.error().status == Status::TRUNCATED);
    return;
  }
  FUZZ_CHECK(file.value().file_bytes == bytes.size());
  check_range(file.value().constants_offset_bytes, file.value().constants_size_bytes, bytes.size());
  for (const FileRange& load : file.value().loads) {
    check_range(load.offset_bytes, load.size_bytes, bytes.size());
  }
  const ProgramTensor* previous = nullptr;
  for (const ProgramTensor& tensor : file.value().tensors) {
    FUZZ_CHECK(previous == nullptr || previous->name < tensor.name);
    check_tensor(tensor, bytes.size());
    previous = &tensor;
  }
}

void check_weight(const ProgramWeight& weight, uint64_t file_bytes) {
  for (const WeightBytes* part :
       {&weight.codes, &weight.scales, &weight.zero_points, &weight.bias}) {
    FUZZ_CHECK(part->file_index == 0);
    check_range(part->range.offset_bytes, part->range.size_bytes, file_bytes);
  }
  if (!weight.why_not.empty()) return;
  const bool is_bias = weight.storage == WeightStorage::packed_bias;
  FUZZ_CHECK(weight.dtype && weight.storage != WeightStorage::unknown);
  FUZZ_CHECK(weight.dims.size() == (is_bias ? 1 : 2) && weight.beside.empty() == !is_bias);
  const uint64_t row_count = weight.dims[0];
  const uint64_t column_count = is_bias ? 1 : weight.dims[1];
  const bool is_nibbles = *weight.dtype == Dtype::i4;
  FUZZ_CHECK(row_count * column_count > 0);
  FUZZ_CHECK(weight.codes.range.size_bytes ==
             row_count *
                 (is_nibbles ? (column_count + 1) / 2 : column_count * dtype_bytes(*weight.dtype)));
  if (is_float(*weight.dtype)) return;
  const uint64_t group_count = weight.group_length == 0 ? 1 : column_count / weight.group_length;
  FUZZ_CHECK(weight.scales.range.size_bytes ==
             row_count * group_count * dtype_bytes(weight.scale_dtype));
}

void parse_weights(const std::vector<uint8_t>& bytes) {
  const MemoryMeter meter;
  const auto list = parse_program_weights({ByteReader(bytes.data(), bytes.size())}, {"fuzz"});
  FUZZ_CHECK(meter.peak_bytes() <= 64 * 1024 + 64 * bytes.size());
  if (!list.ok()) {
    FUZZ_CHECK(list.error().status == Status::BAD_PROGRAM_FILE ||
               list.error().status == Status::TRUNCATED);
    return;
  }
  const ProgramWeight* previous = nullptr;
  for (const ProgramWeight& weight : list.value().weights) {
    FUZZ_CHECK(!weight.name.empty() && (previous == nullptr || previous->name < weight.name));
    check_weight(weight, bytes.size());
    previous = &weight;
  }
}

}  // namespace
}  // namespace shira::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size_bytes) {
  std::vector<uint8_t> bytes(data, data + size_bytes);
  // Another kind of file is another target's business.
  if (bytes.size() >= 8) std::memcpy(&bytes[4], SHIRA_FUZZ_IDENTIFIER, 4);
  shira::fuzz::parse(bytes);
  shira::fuzz::parse_weights(bytes);
  return 0;
}
