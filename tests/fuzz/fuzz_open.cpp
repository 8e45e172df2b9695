// Fuzz target: opening a .shb file. Whatever opens keeps the promises of csrc/format's headers.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "check.h"
#include "format/adapter_file.h"
#include "memory_meter.h"
#include "shb_sample.h"

namespace shira::fuzz {
namespace {

/// Walks the positions and returns how many there are.
uint64_t check_positions(const IndexList& index, uint64_t element_count) {
  FUZZ_CHECK(index.entries.empty() != index.runs.empty());
  uint64_t count = index.entries.size();
  uint64_t end = 0;  // of what came before
  for (size_t i = 0; i < index.entries.size(); ++i) {
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

float value_at(const AdapterTensor& tensor, uint64_t i) {
  const uint8_t* value = tensor.values + i * dtype_bytes(tensor.value_dtype);
  float number = 0;
  uint16_t half = 0;
  if (!is_float(tensor.value_dtype)) return static_cast<float>(static_cast<int8_t>(*value));
  if (tensor.value_dtype == Dtype::f32) {
    std::memcpy(&number, value, sizeof(number));
    return number;
  }
  std::memcpy(&half, value, sizeof(half));
  return tensor.value_dtype == Dtype::f16 ? f16_to_f32(half) : bf16_to_f32(half);
}

void check_tensor(const AdapterTensor& tensor) {
  FUZZ_CHECK(!tensor.name.empty() && !tensor.dims.empty() && !tensor.parts.empty());
  uint64_t numel = 1;
  for (const uint32_t dim : tensor.dims) numel *= dim;
  FUZZ_CHECK(numel == tensor.numel);
  FUZZ_CHECK((tensor.index != nullptr) != tensor.rule.has_value());
  if (tensor.index) {
    FUZZ_CHECK(check_positions(*tensor.index, tensor.numel) == tensor.nnz);
  } else {
    FUZZ_CHECK(tensor.rule->element_count == tensor.numel);
    FUZZ_CHECK(tensor.rule->entry_count == tensor.nnz && tensor.parts.size() == 1);
  }
  FUZZ_CHECK(reinterpret_cast<uintptr_t>(tensor.values) % 8 == 0);
  for (uint64_t i = 0; i < tensor.nnz; ++i) {
    const float value = value_at(tensor, i);
    FUZZ_CHECK(std::isfinite(value));
    FUZZ_CHECK(tensor.value_dtype != Dtype::i4 || (value >= -8 && value <= 7));
  }
}

uint64_t check_adapter(const Adapter& adapter) {
  FUZZ_CHECK(!adapter.name.empty() && !adapter.tensors.empty());
  FUZZ_CHECK(adapter.metadata_json.front() == '{' && adapter.metadata_json.back() == '}');
  uint64_t entry_count = 0;
  for (size_t i = 0; i < adapter.tensors.size(); ++i) {
    FUZZ_CHECK(i == 0 || adapter.tensors[i - 1].name < adapter.tensors[i].name);
    check_tensor(adapter.tensors[i]);
    entry_count += adapter.tensors[i].nnz;
  }
  FUZZ_CHECK(entry_count == adapter.entry_count());
  return entry_count;
}

/// The file that references refer to, in the first inputs.
std::shared_ptr<const AdapterFile> index_source() {
  static const auto source = testing::read(testing::sample());
  FUZZ_CHECK(source.ok());
  return source.value();
}

/// The same refusal, or none, by one thread.
void check_alone(const uint8_t* data, size_t size_bytes, OpenOptions options,
                 const Result<std::shared_ptr<const AdapterFile>>& opened) {
  options.thread_count = 1;
  const auto alone = AdapterFile::from_bytes(data, size_bytes, "fuzz.shb", options);
  FUZZ_CHECK(alone.ok() == opened.ok());
  if (opened.ok()) return;
  FUZZ_CHECK(alone.error().status == opened.error().status);
  FUZZ_CHECK(alone.error().offset_bytes == opened.error().offset_bytes);
  FUZZ_CHECK(alone.error().tensor == opened.error().tensor);
  FUZZ_CHECK(alone.error().message == opened.error().message);
}

void open(const uint8_t* data, size_t size_bytes) {
  std::minstd_rand choices = choices_of(data, size_bytes);
  OpenOptions options;
  if (choices() % 8 != 0) options.index_sources = {index_source()};
  if (choices() % 8 == 0) options.tier_count = 1 + choices() % 3;
  if (choices() % 64 == 0) options.public_key.emplace();
  options.keep_content = choices() % 2 == 0;
  options.threads_from_bytes = 256;
  if (choices() % 4 == 0) options.thread_count = 3;
  const MemoryMeter meter;
  const auto file = AdapterFile::from_bytes(data, size_bytes, "fuzz.shb", options);
  const uint64_t peak_bytes = meter.peak_bytes();
  if (options.thread_count > 1) check_alone(data, size_bytes, options, file);
  if (!file.ok()) {
    const Error& error = file.error();
    FUZZ_CHECK(error.status != Status::OK && error.status != Status::OUT_OF_MEMORY);
    FUZZ_CHECK(!error.message.empty());
    FUZZ_CHECK(error.offset_bytes <= size_bytes || error.status == Status::INVALID_ARGUMENT);
    // Rice takes one bit for a unit, Q1 one for a value: 64 and 32 bits in memory.
    FUZZ_CHECK(peak_bytes <= 64 * 1024 + 100 * size_bytes);
    return;
  }
  FUZZ_CHECK(file.value()->file_bytes() == size_bytes);
  FUZZ_CHECK(file.value()->opened_tier_count() >= 1);
  FUZZ_CHECK(file.value()->opened_tier_count() <= file.value()->tier_count());
  uint64_t entry_count = 0;
  for (const Adapter& adapter : file.value()->adapters()) entry_count += check_adapter(adapter);
  FUZZ_CHECK(peak_bytes <= size_bytes + 64 * 1024 + 8 * entry_count);
  const Result<void> digests = file.value()->check_digests();
  FUZZ_CHECK(digests.ok() ||
             digests.error().status ==
                 (file.value()->keeps_content() ? Status::DIGEST_MISMATCH : Status::NOT_SUPPORTED));
}

}  // namespace
}  // namespace shira::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size_bytes) {
  shira::fuzz::open(data, size_bytes);
  return 0;
}
