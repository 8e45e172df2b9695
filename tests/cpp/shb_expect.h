// Test helper: opens .shb files, and compares all that they hand out with what went in.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/signature.h"
#include "format/adapter_file.h"
#include "index_encoder.h"
#include "shb_builder.h"
#include "shb_sample.h"

namespace shira::testing {

using FilePointer = std::shared_ptr<const AdapterFile>;

inline FilePointer open_good(const Bytes& bytes, const OpenOptions& options = {}) {
  auto opened = read(bytes, options);
  EXPECT_TRUE(opened.ok()) << opened.error().message << " at " << opened.error().offset_bytes;
  return opened.ok() ? opened.value() : nullptr;
}

inline const AdapterTensor& find(const Adapter& adapter, const std::string& name) {
  for (const AdapterTensor& tensor : adapter.tensors) {
    if (tensor.name == name) return tensor;
  }
  ADD_FAILURE() << name << " is missing";
  static const AdapterTensor none;
  return none;
}

/// The values of a row as numbers, by the plainest reading of section 10.
inline std::vector<float> numbers_of(const TensorInput& row) {
  std::vector<float> numbers;
  if (row.scaled) {
    for (size_t i = 0; i < row.scaled->levels.size(); ++i) {
      const float scale = f16_to_f32(row.scaled->scales[i / row.scaled->group]);
      numbers.push_back(
          std::ldexp(static_cast<float>(row.scaled->levels[i]) * scale, row.scaled->exponent));
    }
    return numbers;
  }
  for (size_t i = 0; i < row.index.size(); ++i) {
    const uint8_t* at = &row.values[i * dtype_bytes(row.value_dtype)];
    uint32_t word = 0;
    std::memcpy(&word, at, dtype_bytes(row.value_dtype));
    if (row.value_dtype == Dtype::f32) {
      numbers.push_back(float_from_bits(word));
    } else if (row.value_dtype == Dtype::f16) {
      numbers.push_back(f16_to_f32(static_cast<uint16_t>(word)));
    } else if (row.value_dtype == Dtype::bf16) {
      numbers.push_back(bf16_to_f32(static_cast<uint16_t>(word)));
    } else {
      numbers.push_back(static_cast<float>(static_cast<int8_t>(word)));
    }
  }
  return numbers;
}

inline std::vector<float> numbers_of(const AdapterTensor& tensor) {
  TensorInput row;
  row.value_dtype = tensor.value_dtype;
  row.index.resize(tensor.nnz);
  row.values.assign(tensor.values, tensor.values + tensor.nnz * dtype_bytes(tensor.value_dtype));
  return numbers_of(row);
}

/// Position to value, over all rows of one tensor in the first `tier_count` tiers.
inline std::map<uint32_t, float> entries_of(const AdapterInput& adapter, const std::string& name,
                                            uint32_t tier_count) {
  std::map<uint32_t, float> entries;
  for (const TensorInput& row : adapter.tensors) {
    if (row.name != name || row.tier >= tier_count) continue;
    const std::vector<float> numbers = numbers_of(row);
    for (size_t i = 0; i < row.index.size(); ++i) entries[row.index[i]] = numbers[i];
  }
  return entries;
}

inline std::map<uint32_t, float> entries_of(const AdapterTensor& tensor) {
  std::map<uint32_t, float> entries;
  const std::vector<float> numbers = numbers_of(tensor);
  const std::vector<uint32_t> positions = positions_of(*tensor.index);
  EXPECT_EQ(positions.size(), numbers.size());
  for (size_t i = 0; i < positions.size(); ++i) entries[positions[i]] = numbers[i];
  return entries;
}

/// Everything that `file` hands out is what `input` put in.
inline void expect_holds(const AdapterFile& file, const FileInput& input) {
  ASSERT_EQ(file.adapters().size(), input.adapters.size());
  for (size_t a = 0; a < input.adapters.size(); ++a) {
    const AdapterInput& expected = input.adapters[a];
    const Adapter& found = file.adapters()[a];
    SCOPED_TRACE(expected.name);
    EXPECT_EQ(found.file, &file);
    EXPECT_EQ(found.number, a);
    EXPECT_EQ(found.name, expected.name);
    EXPECT_EQ(found.is_bound, expected.bound);
    EXPECT_EQ(found.metadata_json, expected.metadata);
    std::map<std::string, const TensorInput*> highest;  // row of each tensor that was opened
    for (const TensorInput& row : expected.tensors) {
      if (row.tier >= file.opened_tier_count()) continue;
      const TensorInput*& slot = highest[row.name];
      if (slot == nullptr || slot->tier < row.tier) slot = &row;
    }
    ASSERT_EQ(found.tensors.size(), highest.size());
    size_t i = 0;
    for (const auto& [name, row] : highest) {  // ascending, as the reader's must be
      SCOPED_TRACE(name);
      const AdapterTensor& tensor = found.tensors[i++];
      EXPECT_EQ(tensor.name, name);
      EXPECT_EQ(tensor.dtype, row->dtype);
      EXPECT_EQ(tensor.dims, row->dims);
      EXPECT_EQ(tensor.value_kind, row->kind);
      EXPECT_EQ(tensor.value_codec, codec_of(*row));
      EXPECT_EQ(tensor.value_dtype, row->scaled ? Dtype::f32 : row->value_dtype);
      EXPECT_EQ(tensor.fingerprint, expected.bound ? row->fingerprint : Hash128{});
      EXPECT_EQ(tensor.base_digest, expected.bound ? row->base_digest : Hash128{});
      EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.values) % 8, 0U);
      if (!tensor.index) continue;
      EXPECT_FALSE(tensor.rule.has_value());
      EXPECT_EQ(tensor.nnz, tensor.index->entry_count);
      EXPECT_EQ(entries_of(tensor), entries_of(expected, name, file.opened_tier_count()));
    }
  }
}

inline FileInput one(const AdapterInput& adapter) {
  FileInput input;
  input.adapters = {adapter};
  return input;
}

/// For tests that need SHA-256.
class WithCryptography : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!cryptography_available()) GTEST_SKIP() << "this build has no SHA-256";
  }
};

}  // namespace shira::testing
