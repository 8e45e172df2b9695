// Tables of 4-bit codes in a mapped program file: two codes in a byte, the even column on top.
// SPDX-License-Identifier: Apache-2.0
#include "attach/nibble_rows.h"

#include <gtest/gtest.h>

#include "transaction_support.h"

namespace shira::testing {
namespace {

constexpr uint32_t kRows = 256;

/// The bytes of a constant of a program's file, seen as a table.
class NibbleRows : public ::testing::Test {
 protected:
  void SetUp() override {
    columns_ = static_cast<uint32_t>(2 * table().size() / kRows);
    ASSERT_EQ(columns_ % 2, 0U);
    base_ = make_tensor("table", Dtype::i4, {kRows, columns_}, codes_of(table()));
    model_.tensors.push_back(base_);
    std::mt19937_64 random(3);
    for (const char* name : {"x", "y", "z"}) {
      const TensorInput tensor = random_tensor(random, base_, ValueKind::target, 0.1);
      AdapterInput input;
      input.name = name;
      input.tensors = {tensor};
      adapters_.emplace(name, seal(input));
    }
    TensorSpec spec;
    spec.name = "table";
    spec.dtype = Dtype::i4;
    spec.dims = {kRows, columns_};
    spec.data = attached_.data(1);
    spec.region = attached_.region;
    spec.layout = make_nibble_rows(spec.data, kRows, columns_);
    ASSERT_TRUE(program_.add_tensor(spec).ok());
    for (const auto& [name, adapter] : adapters_)
      ASSERT_TRUE(program_.add_adapter(adapter.source, {}).ok());
  }

  /// The table's bytes as they are in memory.
  Bytes table() const { return attached_.live()[1]; }

  static Bytes codes_of(const Bytes& table) {
    Bytes codes;
    for (const uint8_t byte : table) {
      codes.push_back(static_cast<uint8_t>(byte / 16 - 8));
      codes.push_back(static_cast<uint8_t>(byte % 16 - 8));
    }
    return codes;
  }

  void expect_state(const std::vector<Member>& members) const {
    EXPECT_TRUE(codes_of(table()) == expected_state(model_, adapters_, members).bytes[0]);
    const std::vector<Bytes> all = attached_.live();
    EXPECT_TRUE(all[0] == weights_.expected({})[0]) << "the neighbour before it";
    EXPECT_TRUE(all[2] == weights_.expected({})[2]) << "the neighbour behind it";
  }

  void switch_to(const std::vector<Member>& members) {
    const Result<SwitchReport> result = program_.switch_to(members);
    ASSERT_TRUE(result.ok()) << result.error().message;
    expect_state(members);
  }

  const WeightsFile weights_{3, 16};
  AttachedProgram attached_{weights_};
  uint32_t columns_ = 0;
  LiveTensor base_;
  Model model_;
  Adapters adapters_;
  Program program_;
};

TEST_F(NibbleRows, EveryElementIsWhereItBelongs) {
  Bytes bytes = {0x0F, 0x1E, 0x87, 0x78};
  FakeRegion file;
  file.live = &bytes;
  file.pristine = bytes;
  const auto layout = make_nibble_rows(bytes.data(), 2, 4);
  EXPECT_EQ(layout->size_bytes(), 4U);
  const Bytes codes = encode_values(Dtype::i4, {-8, 7, -7, 6, 0, -1, -1, 0});
  for (uint64_t first = 0; first < 8; ++first) {
    for (uint64_t count = 0; first + count <= 8; ++count) {
      Bytes out(count + 1, 0x55);
      layout->read(first, count, out.data());
      Bytes expected(&codes[first], &codes[first] + count);
      expected.push_back(0x55);
      EXPECT_EQ(out, expected);
      out.assign(count + 1, 0x55);
      ASSERT_TRUE(layout->read_source(file, bytes.data(), first, count, out.data()).ok());
      EXPECT_EQ(out, expected);
    }
  }
  const uint32_t index[] = {0, 3, 4, 5};
  const Bytes values = encode_values(Dtype::i4, {7, -8, 1, -1});
  Bytes out(4);
  layout->gather(index, 4, out.data());
  EXPECT_EQ(out, (Bytes{codes[0], codes[3], codes[4], codes[5]}));
  layout->swap(index, 4, values.data(), out.data());
  EXPECT_EQ(out, (Bytes{codes[0], codes[3], codes[4], codes[5]}));
  EXPECT_EQ(bytes, (Bytes{0xFF, 0x10, 0x97, 0x78}));
  layout->store(index, 4, out.data());
  EXPECT_EQ(bytes, (Bytes{0x0F, 0x1E, 0x87, 0x78}));
}

TEST_F(NibbleRows, SwitchesEqualTheOracleAndGoBack) {
  std::mt19937_64 random(9);
  const std::vector<std::vector<Member>> states = {
      {}, {{"x", 1}}, {{"y", 1}}, {{"z", -0.5F}}, {{"x", 1}, {"y", 0.7F}}, {{"y", 1}, {"z", 1}}};
  for (int step = 0; step < 60; ++step) {
    ASSERT_TRUE(program_.set_thread_count(1 + random() % 4).ok());
    if (step == 30) {
      ASSERT_TRUE(program_.set_originals(Originals::file).ok());
    }
    switch_to(states[random() % states.size()]);
    ASSERT_TRUE(program_.verify_base().value().modified.empty());
  }
  switch_to({});
  EXPECT_EQ(weights_.read(), weights_.content()) << "the file is never written";
}

TEST_F(NibbleRows, VerifyBaseComparesWithTheFile) {
  switch_to({{"x", 1}});
  const Expected expected = expected_state(model_, adapters_, {{"x", 1}});
  uint32_t index = kRows * columns_ - 3;
  while (expected.touched[0][index] != 0) --index;
  attached_.data(1)[index / 2] ^= index % 2 == 0 ? 0x10 : 0x01;
  const VerifyReport report = program_.verify_base().value();
  ASSERT_EQ(report.modified.size(), 1U);
  EXPECT_EQ(report.modified[0].first_offset_bytes, index);
}

TEST_F(NibbleRows, ATruncatedFileIsAnAnswer) {
  ASSERT_TRUE(program_.set_first_touch(FirstTouch::populate).ok());
  const Bytes before = table();
  const uint64_t tensor_bytes = before.size();
  const uint64_t cut = weights_.content().size() - 2 * tensor_bytes + 8 * page_bytes();
  for (const float scale : {1.0F, 0.5F}) {
    weights_.truncate_to(cut & ~(page_bytes() - 1));
    const Error error = program_.switch_to({{"x", scale}}).error();
    EXPECT_EQ(error.status, Status::DETACHED) << error.message;
    EXPECT_EQ(error.tensor, "table");
    EXPECT_TRUE(program_.active().empty());
    weights_.restore();
    EXPECT_TRUE(table() == before);
  }
  switch_to({{"x", 1}});
}

TEST_F(NibbleRows, HardRevertAndReleasedPagesShowTheFile) {
  const SwitchReport applied = program_.switch_to({{"x", 1}}).value();
  const SwitchReport report = program_.hard_revert().value();
  expect_state({});
  EXPECT_EQ(report.elements_changed, applied.elements_changed);
  EXPECT_EQ(program_.hard_revert().value().epoch, report.epoch);
  switch_to({{"y", 1}});
  switch_to({});
  EXPECT_GT(program_.release_pages().value(), 0U);
  expect_state({});
  switch_to({{"z", 1}});
}

}  // namespace
}  // namespace shira::testing
