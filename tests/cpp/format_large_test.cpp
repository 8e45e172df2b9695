// Files whose lists and values are large enough to be cut from one allocation each.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/huge_pages.h"
#include "index_encoder.h"
#include "shb_sample.h"

namespace shira {
namespace {

using testing::positions_of;

constexpr uint32_t kTensors = 5;
constexpr uint32_t kEntries = 130000;
static_assert(kTensors * kEntries * sizeof(uint32_t) > kHugePagesFromBytes);

/// Tensors with positions of their own: lists and values that were mixed up would differ.
testing::AdapterInput large_input() {
  testing::AdapterInput input;
  input.bound = false;
  for (uint32_t number = 0; number < kTensors; ++number) {
    const bool has_blocks = number % 2 == 1;
    std::vector<uint32_t> index;
    for (uint32_t i = 0; i < kEntries; ++i) {
      // Gaps of 0, 1, ..., number, again and again, of entries or of blocks of 2.
      const uint32_t unit = has_blocks ? i / 2 : i;
      const uint32_t place = unit + unit / (number + 1) * (number * (number + 1) / 2) +
                             unit % (number + 1) * (unit % (number + 1) + 1) / 2;
      index.push_back(has_blocks ? 2 * place + i % 2 : place);
    }
    testing::TensorInput tensor =
        testing::scaled_tensor("layer" + std::to_string(number), Dtype::f16, {index.back() + 2},
                               number < 3 ? IndexCodec::gaps8 : IndexCodec::rice, index,
                               number % 2 == 0 ? ValueCodec::q8 : ValueCodec::q4);
    tensor.block_length = has_blocks ? 2 : 1;
    tensor.scaled->exponent = static_cast<int8_t>(number);
    input.tensors.push_back(tensor);
  }
  return input;
}

TEST(LargeFile, EveryTensorHasItsOwnPositionsAndValues) {
  const testing::AdapterInput input = large_input();
  const testing::Bytes bytes = testing::build_adapter(input);
  auto opened = AdapterFile::from_bytes(bytes.data(), bytes.size(), "large");
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  const std::vector<AdapterTensor>& tensors = opened.value()->adapters()[0].tensors;
  ASSERT_EQ(tensors.size(), kTensors);
  for (uint32_t number = 0; number < kTensors; ++number) {
    const testing::TensorInput& expected = input.tensors[number];
    ASSERT_EQ(positions_of(*tensors[number].index), expected.index) << number;
    ASSERT_EQ(tensors[number].value_dtype, Dtype::f32);
    const auto* values = reinterpret_cast<const float*>(tensors[number].values);
    const float unit = 0.5F * static_cast<float>(1 << number);
    for (uint32_t i = 0; i < kEntries; ++i) {
      ASSERT_EQ(values[i], static_cast<float>(expected.scaled->levels[i]) * unit) << number;
    }
  }
}

TEST(LargeFile, AListOutlivesTheFile) {
  const testing::AdapterInput input = large_input();
  const testing::Bytes bytes = testing::build_adapter(input);
  auto opened = AdapterFile::from_bytes(bytes.data(), bytes.size(), "large");
  ASSERT_TRUE(opened.ok());
  const std::shared_ptr<const IndexList> kept = opened.value()->adapters()[0].tensors[3].index;
  opened.value().reset();
  EXPECT_EQ(positions_of(*kept), input.tensors[3].index);
}

}  // namespace
}  // namespace shira
