// Programs with integer codes and with tensors whose elements do not lie one behind the other.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cfenv>
#include <limits>

#include "runtime/weight_table.h"
#include "runtime_support.h"

namespace shira::testing {
namespace {

constexpr uint32_t kRows = 120;
constexpr uint32_t kColumns = 301;
constexpr uint32_t kNumel = kRows * kColumns;

/// A region whose source has the elements one behind the other, and that cannot drop pages.
class ElementSource : public FakeRegion {
 public:
  explicit ElementSource(LiveTensor* tensor) : tensor_(tensor) {}
  bool has_source() const override { return true; }
  Result<void> read_source(const uint8_t* data, uint64_t size_bytes, uint8_t* out) const override {
    std::memcpy(out, tensor_->pristine.data() + (data - tensor_->data()), size_bytes);
    return {};
  }
  uint64_t cold_source_bytes(const uint8_t* /*data*/, uint64_t size_bytes) const override {
    return size_bytes;
  }
  Result<void> hard_revert() override {
    if (!revert_error.ok()) return revert_error;
    const Bytes packed = tensor_->layout->pack(tensor_->pristine);
    std::copy(packed.begin(), packed.end(), tensor_->data());
    return {};
  }

 private:
  LiveTensor* tensor_;
};

/// One packed tensor of each dtype; `x` and `y` touch all of them.
class ProgramLayout : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    std::mt19937_64 random(29);
    for (const Dtype dtype : {Dtype::f32, Dtype::f16, Dtype::i8, Dtype::i4}) {
      model_.tensors.push_back(make_packed_tensor(dtype_name(dtype), dtype, {kRows, kColumns},
                                                  random_bytes(random, dtype, kNumel), 4));
    }
    for (size_t i = 0; i < model_.tensors.size(); ++i) {
      TensorSpec spec = model_.spec(i);
      if (has_source()) {
        sources_.push_back(std::make_shared<ElementSource>(&model_.tensors[i]));
        spec.region = sources_.back();
      }
      ASSERT_TRUE(program_.add_tensor(spec).ok());
    }
    for (const char* name : {"x", "y"}) {
      AdapterInput input;
      input.name = name;
      for (const LiveTensor& tensor : model_.tensors)
        input.tensors.push_back(random_tensor(random, tensor, ValueKind::target, 0.2));
      adapters_.emplace(name, seal(input));
      ASSERT_TRUE(program_.add_adapter(adapters_.at(name).source, {}).ok());
    }
  }

  bool has_source() const { return GetParam(); }

  void expect_state(const std::vector<Member>& members) {
    EXPECT_TRUE(model_.live() == expected_state(model_, adapters_, members).bytes);
    EXPECT_TRUE(model_.is_packed_right());
    EXPECT_TRUE(model_.guards_intact());
    for (const LiveTensor& tensor : model_.tensors) {
      Bytes copy(kNumel * dtype_bytes(tensor.dtype));
      ASSERT_TRUE(program_.read_tensor(tensor.name, copy.data(), copy.size()).ok());
      EXPECT_TRUE(copy == tensor.live());
    }
  }

  void switch_to(const std::vector<Member>& members) {
    const Result<SwitchReport> result = program_.switch_to(members);
    ASSERT_TRUE(result.ok()) << result.error().message;
    expect_state(members);
  }

  Model model_;
  std::vector<std::shared_ptr<ElementSource>> sources_;
  Adapters adapters_;
  Program program_;
};

const std::vector<Member> kStates[] = {{}, {{"x", 1}}, {{"y", 0.5F}}, {{"x", 1}, {"y", -1}}};

TEST_P(ProgramLayout, VerifyBaseFindsAnElementThatSomebodyStored) {
  for (const auto& members : kStates) {
    switch_to(members);
    ASSERT_TRUE(program_.verify_base().value().modified.empty());
    const Expected expected = expected_state(model_, adapters_, members);
    for (size_t t = 0; t < model_.tensors.size(); ++t) {
      uint32_t index = kNumel - 5;
      while (expected.touched[t][index] != 0) --index;
      model_.tensors[t].flip(index);
      const VerifyReport report = program_.verify_base().value();
      model_.tensors[t].flip(index);
      ASSERT_EQ(report.modified.size(), 1U);
      EXPECT_EQ(report.modified[0].name, model_.tensors[t].name);
      const uint64_t offset = index * dtype_bytes(model_.tensors[t].dtype);
      EXPECT_EQ(report.modified[0].first_offset_bytes, has_source() ? offset : kNoOffset);
    }
  }
  const VerifyReport report = program_.verify_base().value();
  EXPECT_EQ(report.tensors_checked, 4U);
  EXPECT_EQ(report.bytes_checked, kNumel * 8ULL)
      << "as the elements would lie one behind the other";
}

TEST_P(ProgramLayout, ReadsOnlyWholeTensorsThatItHas) {
  Bytes out(kNumel);
  EXPECT_EQ(program_.read_tensor("int8", out.data(), out.size() - 1).error().status,
            Status::INVALID_ARGUMENT);
  EXPECT_EQ(program_.read_tensor("int9", out.data(), out.size()).error().status,
            Status::UNKNOWN_TENSOR);
}

TEST_P(ProgramLayout, VerifyBaseFindsAWrongSum) {
  for (const auto& members : kStates) {
    switch_to(members);
    for (LiveTensor& tensor : model_.tensors) {
      const uint64_t offset = tensor.place_of(50 * kColumns).sum_offset_bytes;
      tensor.data()[offset + 1] ^= 0x20;
      const VerifyReport report = program_.verify_base().value();
      tensor.data()[offset + 1] ^= 0x20;
      ASSERT_EQ(report.modified.size(), 1U);
      EXPECT_EQ(report.modified[0].name, tensor.name);
      EXPECT_EQ(report.modified[0].first_offset_bytes, offset);
      EXPECT_TRUE(report.modified[0].adapter.empty());
    }
  }
  ASSERT_TRUE(program_.verify_base().value().modified.empty());
}

TEST_P(ProgramLayout, AWrongBaseIsToldBeforeAnythingIsStored) {
  const uint32_t index = adapters_.at("x").input.tensors[3].index[7];
  model_.tensors[3].flip(index);
  const std::vector<Bytes> live = model_.live_bytes();
  for (const float scale : {1.0F, 0.5F}) {
    const Error error = program_.switch_to({{"x", scale}}).error();
    EXPECT_EQ(error.status, Status::BASE_MISMATCH);
    EXPECT_EQ(error.tensor, "int4");
    EXPECT_TRUE(model_.live_bytes() == live);
  }
  EXPECT_EQ(program_.check_adapter("x").error().status, Status::BASE_MISMATCH);
  model_.tensors[3].flip(index);
  EXPECT_TRUE(program_.check_adapter("x").ok());
  switch_to({{"x", 1}});
}

TEST_P(ProgramLayout, PagesOfElementsAndOfSumsCount) {
  // The first element of a block lies behind all others of it, far from the sums.
  adapters_.emplace("few", simple_adapter("few", model_.tensors[0], {0, 40 * kColumns}, {1, 2}));
  ASSERT_TRUE(program_.add_adapter(adapters_.at("few").source, {}).ok());
  for (const char* name : {"x", "few"}) {
    const AdapterPages pages = program_.adapter_pages(name).value();
    for (size_t t = 0; t < pages.tensors.size(); ++t) {
      LiveTensor& tensor = model_.tensors[t];
      const auto page_of = [&](uint64_t offset_bytes) {
        return reinterpret_cast<uintptr_t>(tensor.data() + offset_bytes) / page_bytes();
      };
      std::set<uintptr_t> expected;
      for (const uint32_t index : adapters_.at(name).input.tensors[t].index) {
        const ElementPlace place = tensor.place_of(index);
        expected.insert(page_of(place.element_offset_bytes));
        expected.insert(page_of(place.sum_offset_bytes));
      }
      EXPECT_EQ(pages.tensors[t].page_count, expected.size());
      EXPECT_EQ(pages.tensors[t].tensor_page_count,
                page_of(tensor.layout->size_bytes() - 1) - page_of(0) + 1);
    }
  }
}

TEST_P(ProgramLayout, OriginalsMayStayInTheFile) {
  const Result<void> set = program_.set_originals(Originals::file);
  if (!has_source()) {
    EXPECT_EQ(set.error().status, Status::NOT_SUPPORTED);
    return;
  }
  ASSERT_TRUE(set.ok());
  for (const auto& from : kStates) {
    for (const auto& to : kStates) {
      switch_to(from);
      switch_to(to);
    }
  }
  EXPECT_EQ(program_.memory().value().originals_bytes, 0U);
  EXPECT_GT(program_.memory().value().source_cold_bytes, 0U);
  ASSERT_TRUE(program_.verify_base().value().modified.empty());
}

TEST_P(ProgramLayout, HardRevertComparesElements) {
  if (!has_source()) {
    switch_to({{"x", 1}});
    EXPECT_EQ(program_.hard_revert().error().status, Status::NOT_SUPPORTED);
    return expect_state({{"x", 1}});
  }
  const SwitchReport applied = program_.switch_to({{"x", 1}}).value();
  const SwitchReport report = program_.hard_revert().value();
  expect_state({});
  EXPECT_EQ(report.elements_changed, applied.elements_changed);
  EXPECT_EQ(report.epoch, 2U);
  EXPECT_EQ(program_.hard_revert().value().epoch, 2U) << "nothing left to change";
  switch_to({{"y", 1}});

  // The third region refuses when the first two are reverted already.
  sources_[2]->revert_error = Error{Status::DETACHED, "the fake region says so"};
  EXPECT_EQ(program_.hard_revert().error().status, Status::DETACHED);
  expect_state({{"y", 1}});
  EXPECT_EQ(program_.epoch(), 3U) << "everything is as before";
}

INSTANTIATE_TEST_SUITE_P(Regions, ProgramLayout, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Source" : "NoSource"; });

// --- memory

TEST(ProgramLayoutMemory, WhatCountsIsThePackedExtent) {
  std::mt19937_64 random(3);
  const Bytes codes = random_bytes(random, Dtype::i4, 64);
  Model model;
  model.tensors.push_back(make_packed_tensor("w", Dtype::i4, {8, 8}, codes, 8));
  const uint64_t size_bytes = model.tensors[0].layout->size_bytes();
  const TensorSpec first = model.spec(0);
  EXPECT_EQ(live_bytes(first), size_bytes);
  EXPECT_EQ(logical_bytes(first), 64U);

  Bytes memory(3 * size_bytes);
  const auto add = [&](WeightTable* table, const char* name, uint8_t* data) {
    TensorSpec spec = first;
    spec.name = name;
    spec.data = data;
    return table->add({spec});
  };
  WeightTable table;
  ASSERT_TRUE(add(&table, "a", memory.data()).ok());
  EXPECT_EQ(add(&table, "b", memory.data() + size_bytes - 1).error().status,
            Status::SHARED_STORAGE);
  EXPECT_TRUE(add(&table, "c", memory.data() + size_bytes).ok()) << "right behind it";
  ASSERT_TRUE(add(&table, "d", memory.data()).ok());
  EXPECT_EQ(table.specs()[0].shares_storage_with, "d");
}

TEST(ProgramLayoutMemory, LayoutsWorkInTheDefaultFloatMode) {
  std::mt19937_64 random(5);
  Model model;
  for (int i = 0; i < 4; ++i) {
    model.tensors.push_back(make_packed_tensor("w" + std::to_string(i), Dtype::i8, {300, 300},
                                               random_bytes(random, Dtype::i8, 90000), 4));
  }
  const Adapters adapters = {{"a", random_adapter(random, "a", model, ValueKind::target, 0.5)}};
  Program program;
  model.register_with(&program);
  std::fesetround(FE_UPWARD);  // new threads take it over
  const bool has_threads = program.set_thread_count(4).ok();
  const bool is_added = program.add_adapter(adapters.at("a").source, {}).ok();
  const bool is_applied = program.switch_to({{"a", 1}}).ok();  // the layout aborts in another mode
  const bool is_right = program.verify_base().value().modified.empty();
  std::fesetround(FE_TONEAREST);
  ASSERT_TRUE(has_threads && is_added && is_applied && is_right);
  EXPECT_TRUE(model.live() == expected_state(model, adapters, {{"a", 1}}).bytes);
}

// --- codes

class ProgramCodes : public ::testing::TestWithParam<Dtype> {
 protected:
  void SetUp() override {
    const std::vector<float> base = {0, 1, 2, 3, -1, -2, -3, 7, -8, 5};
    model_.tensors.push_back(make_tensor("w", GetParam(), {10}, encode_values(GetParam(), base)));
    const std::vector<uint32_t> all = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    add("a", all, {1, 2, 1, 7, -8, -1, 7, -8, 7, 5});
    add("b", {0, 2, 9}, {3, -7, 6});
    model_.register_with(&program_);
    for (const auto& [name, adapter] : adapters_)
      ASSERT_TRUE(program_.add_adapter(adapter.source, {}).ok());
  }
  void add(const std::string& name, std::vector<uint32_t> index, const std::vector<float>& codes) {
    adapters_.emplace(name, simple_adapter(name, model_.tensors[0], std::move(index), codes));
  }
  void expect_codes(const std::vector<Member>& members, const std::vector<float>& codes) {
    const Result<SwitchReport> result = program_.switch_to(members);
    ASSERT_TRUE(result.ok()) << result.error().message;
    EXPECT_EQ(model_.live()[0], encode_values(GetParam(), codes));
  }

  Model model_;
  Adapters adapters_;
  Program program_;
};

// Worked out by hand: ties go to the even code, and what leaves the range stays at its end.
TEST_P(ProgramCodes, AreScaledAndStackedByTheRule) {
  const bool is_i8 = GetParam() == Dtype::i8;
  const float top = is_i8 ? 127 : 7;
  const float bottom = is_i8 ? -128 : -8;
  expect_codes({{"a", 1}}, {1, 2, 1, 7, -8, -1, 7, -8, 7, 5});
  expect_codes({{"a", 0.5F}}, {0, 2, 2, 5, -4, -2, 2, 0, 0, 5});
  expect_codes({{"a", -1}}, {-1, 0, 3, -1, 6, -3, is_i8 ? -13.0F : -8, is_i8 ? 22.0F : 7,
                             is_i8 ? -23.0F : -8, 5});
  expect_codes({{"a", 100}}, {is_i8 ? 100.0F : 7, is_i8 ? 101.0F : 7, is_i8 ? -98.0F : -8, top,
                              bottom, is_i8 ? 98.0F : 7, top, bottom, top, 5});
  // 0 + (1 + 3), 2 + (-1 - 9), 5 + (0 + 1)
  expect_codes({{"a", 1}, {"b", 1}}, {4, 2, -8, 7, -8, -1, 7, -8, 7, 6});
  expect_codes({{"a", -0.5F}, {"b", 0.5F}},
               {1, 0, -2, 1, 2, -2, -8, is_i8 ? 14.0F : 7, is_i8 ? -16.0F : -8, 6});
  expect_codes({}, {0, 1, 2, 3, -1, -2, -3, 7, -8, 5});
}

TEST_P(ProgramCodes, ASumThatIsNoNumberIsRefused) {
  expect_codes({{"b", 1}}, {3, 1, -7, 3, -1, -2, -3, 7, -8, 6});
  const Bytes live = model_.live()[0];
  const float huge = std::numeric_limits<float>::max();
  const Error error = program_.switch_to({{"a", huge}}).error();
  EXPECT_EQ(error.status, Status::NON_FINITE_RESULT);
  EXPECT_EQ(error.tensor, "w");
  EXPECT_NE(error.message.find("flat index 3 "), std::string::npos) << error.message;
  // Infinities of both signs, whose sum is no number at all.
  const Error of_stack = program_.switch_to({{"a", huge}, {"b", -huge}}).error();
  EXPECT_EQ(of_stack.status, Status::NON_FINITE_RESULT);
  EXPECT_EQ(model_.live()[0], live);
  EXPECT_EQ(program_.active()[0].name, "b");
}

TEST_P(ProgramCodes, TheDtypesMustAgree) {
  const Dtype other = GetParam() == Dtype::i8 ? Dtype::i4 : Dtype::i8;
  LiveTensor codes = model_.tensors[0];
  codes.dtype = other;
  const Error error = program_.add_adapter(simple_adapter("c", codes, {1}, {2}).source, {}).error();
  EXPECT_EQ(error.status, Status::DTYPE_MISMATCH);
  EXPECT_EQ(error.tensor, "w");
}

TEST_P(ProgramCodes, TheDigestKnowsEachCode) {
  const Hash128 base = program_.digest();
  add("one", {4}, {2});
  add("another", {4}, {3});
  add("none", {4}, {-1});
  std::set<Hash128> digests = {base};
  for (const char* name : {"one", "another", "none"}) {
    ASSERT_TRUE(program_.add_adapter(adapters_.at(name).source, {}).ok());
    ASSERT_TRUE(program_.switch_to({{name, 1}}).ok());
    digests.insert(program_.digest());
  }
  EXPECT_EQ(digests.size(), 3U);
  EXPECT_EQ(program_.digest(), base) << "an adapter without effect";
}

INSTANTIATE_TEST_SUITE_P(Dtypes, ProgramCodes, ::testing::Values(Dtype::i8, Dtype::i4),
                         [](const auto& info) { return dtype_name(info.param); });

}  // namespace
}  // namespace shira::testing
