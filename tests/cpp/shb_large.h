// Test helper: files whose streams are long, and whether two openings of one gave the same.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "index_encoder.h"
#include "shb_builder.h"
#include "shb_sample.h"

namespace shira::testing {

/// `count` positions in a pattern that differs every 100000 of them.
inline TensorInput large_tensor(const std::string& name, uint32_t count, IndexCodec codec,
                                std::optional<ValueCodec> scaled, uint32_t block_length = 1) {
  std::vector<uint32_t> index(count);
  for (uint32_t i = 0; i < count; ++i) {
    index[i] = i / block_length * 3 * block_length + i % block_length + i / 100000;
  }
  if (block_length > 1) {
    for (uint32_t i = 0; i < count; ++i) index[i] -= i / 100000;
  }
  const std::vector<uint32_t> dims = {index.back() + block_length};
  TensorInput input = scaled ? scaled_tensor(name, Dtype::f16, dims, codec, index, *scaled)
                             : tensor(name, Dtype::f16, dims, codec, {0});
  if (!scaled) {
    input.index = index;
    input.set_values(std::vector<float>(count, 0.25F));
    input.kind = ValueKind::delta;
  }
  input.block_length = block_length;
  return input;
}

inline AdapterInput unbound(std::vector<TensorInput> tensors) {
  AdapterInput input;
  input.bound = false;
  input.tensors = std::move(tensors);
  return input;
}

/// Two openings of one file gave the same.
inline void expect_holds_the_same(const AdapterFile& file, const AdapterFile& expected) {
  for (size_t number = 0; number < expected.adapters().size(); ++number) {
    const std::vector<AdapterTensor>& tensors = file.adapters()[number].tensors;
    const std::vector<AdapterTensor>& others = expected.adapters()[number].tensors;
    ASSERT_EQ(tensors.size(), others.size());
    for (size_t i = 0; i < tensors.size(); ++i) {
      ASSERT_EQ(tensors[i].nnz, others[i].nnz);
      ASSERT_TRUE(positions_of(*tensors[i].index) == positions_of(*others[i].index)) << i;
      const size_t value_bytes = others[i].nnz * dtype_bytes(others[i].value_dtype);
      ASSERT_EQ(std::memcmp(tensors[i].values, others[i].values, value_bytes), 0) << i;
    }
  }
}

}  // namespace shira::testing
