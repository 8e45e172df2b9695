// Fuzz target: opening a .shb file. Whatever opens keeps the promises of its headers.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstring>

#include "check.h"
#include "format/adapter_file.h"
#include "memory_meter.h"

namespace shira::fuzz {
namespace {

/// Walks the positions and returns how many there are.
uint64_t check_positions(const IndexList& index, uint64_t element_count) {
  FUZZ_CHECK(index.entries.empty() != index.runs.empty());
  uint64_t count = 0;
  uint64_t end = 0;  // of what came before
  for (size_t i = 0; i < index.entries.size(); ++i, ++count) {
    FUZZ_CHECK(index.entries[i] >= end);
    end = uint64_t{index.entries[i]} + 1;
  }
  for (size_t i = 0; i < index.runs.size(); ++i) {
    FUZZ_CHECK(index.runs[i].length >= 1);
    FUZZ_CHECK(i == 0 || index.runs[i].start > end);
    end = uint64_t{index.runs[i].start} + index.runs[i].length;
    count += index.runs[i].length;
  }
  FUZZ_CHECK(end <= element_count);
  return count;
}

void check_tensor(const AdapterTensor& tensor) {
  FUZZ_CHECK(!tensor.name.empty());
  uint64_t numel = 1;
  for (const uint32_t dim : tensor.dims) numel *= dim;
  FUZZ_CHECK(numel == tensor.numel);
  FUZZ_CHECK(check_positions(tensor.index, tensor.numel) == tensor.nnz());
  for (uint64_t i = 0; i < tensor.nnz(); ++i) {
    const uint8_t* value = tensor.values + i * dtype_bytes(tensor.value_dtype);
    float number = 0;
    uint16_t half = 0;
    if (tensor.value_dtype == Dtype::f32) {
      std::memcpy(&number, value, 4);
    } else {
      std::memcpy(&half, value, 2);
      number = tensor.value_dtype == Dtype::f16 ? f16_to_f32(half) : bf16_to_f32(half);
    }
    FUZZ_CHECK(std::isfinite(number));
  }
}

void open(const uint8_t* data, size_t size_bytes) {
  const MemoryMeter meter;
  const auto file = AdapterFile::from_bytes(data, size_bytes, "fuzz.shb");
  // A copy of the file, and of what it says: at most 8 bytes per byte of a coded stream.
  FUZZ_CHECK(meter.peak_bytes() <= 64 * 1024 + 12 * size_bytes);
  if (!file.ok()) {
    FUZZ_CHECK(file.error().status != Status::OK && file.error().status != Status::OUT_OF_MEMORY);
    FUZZ_CHECK(!file.error().message.empty());
    FUZZ_CHECK(file.error().offset_bytes <= size_bytes);
    return;
  }
  FUZZ_CHECK(file.value()->file_bytes() == size_bytes);
  uint64_t entry_count = 0;
  std::string name;
  for (const AdapterTensor& tensor : file.value()->tensors()) {
    FUZZ_CHECK(name < tensor.name);
    name = tensor.name;
    check_tensor(tensor);
    entry_count += tensor.nnz();
  }
  FUZZ_CHECK(entry_count == file.value()->entry_count());
  FUZZ_CHECK(file.value()->metadata_json().front() == '{');
}

}  // namespace
}  // namespace shira::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size_bytes) {
  shira::fuzz::open(data, size_bytes);
  return 0;
}
