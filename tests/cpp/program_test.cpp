// Registration, binding, refusals and base checks of Program: laws I2, I6, I8 and I10.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/program.h"

#include <gtest/gtest.h>

#include "runtime_support.h"

namespace shira::testing {
namespace {

// Two small f32 tensors and one adapter for each, and one for both.
class ProgramTest : public ::testing::Test {
 protected:
  void SetUp() override {
    model_.tensors.push_back(
        make_tensor("a.weight", Dtype::f32, {2, 3}, encode_values(Dtype::f32, {1, 2, 3, 4, 5, 6})));
    model_.tensors.push_back(
        make_tensor("b.weight", Dtype::bf16, {4}, encode_values(Dtype::bf16, {1, 2, 3, 4})));
    on_a_ = simple_adapter("on_a", model_.tensors[0], {1, 4}, {20, 50});
    on_b_ = simple_adapter("on_b", model_.tensors[1], {0, 3}, {10, 40});
    AdapterInput both;
    both.name = "both";
    both.tensors = {simple_adapter("part", model_.tensors[0], {0, 1}, {-1, -2}).input.tensors[0],
                    simple_adapter("part", model_.tensors[1], {1}, {-2}).input.tensors[0]};
    both_ = seal(both);
    model_.register_with(&program_);
  }

  void add_all() {
    for (const TestAdapter* adapter : {&on_a_, &on_b_, &both_}) add(*adapter);
  }
  void add(const TestAdapter& adapter, const AddOptions& options = {}) {
    const Result<std::string> added = program_.add_adapter(adapter.source, options);
    ASSERT_TRUE(added.ok()) << added.error().message;
  }
  Error add_error(const AdapterInput& input, const AddOptions& options = {}) {
    const Result<std::string> added = program_.add_adapter(seal(input).source, options);
    EXPECT_FALSE(added.ok());
    return added.error();
  }
  SwitchReport switch_to(const std::vector<Member>& members) {
    Result<SwitchReport> result = program_.switch_to(members);
    EXPECT_TRUE(result.ok()) << result.error().message;
    return result.ok() ? result.value() : SwitchReport{};
  }
  // The switch must fail and leave bytes, epoch, digest and active adapters alone (I2).
  Error switch_error(const std::vector<Member>& members) {
    const std::vector<Bytes> bytes = model_.live();
    const ProgramState before = program_.state();
    const Result<SwitchReport> result = program_.switch_to(members);
    const ProgramState after = program_.state();
    EXPECT_FALSE(result.ok());
    EXPECT_EQ(model_.live(), bytes);
    EXPECT_EQ(after.epoch, before.epoch);
    EXPECT_EQ(after.digest, before.digest);
    EXPECT_EQ(after.active.size(), before.active.size());
    return result.error();
  }

  Model model_;
  TestAdapter on_a_;
  TestAdapter on_b_;
  TestAdapter both_;
  Program program_;
};

TEST_F(ProgramTest, RegistrationRefusesWhatItCannotPatch) {
  const auto status_of = [&](const TensorSpec& spec) {
    return program_.add_tensor(spec).error().status;
  };
  TensorSpec spec = model_.spec(0);
  EXPECT_EQ(status_of(spec), Status::DUPLICATE_NAME);
  spec.name = "";
  EXPECT_EQ(status_of(spec), Status::INVALID_ARGUMENT);
  spec.name = "c.weight";
  spec.data = nullptr;
  EXPECT_EQ(status_of(spec), Status::INVALID_ARGUMENT);
  spec = model_.spec(0);
  spec.name = "c.weight";
  spec.data += 2;
  EXPECT_EQ(status_of(spec), Status::INVALID_ARGUMENT) << "misaligned";
  spec.data += 2;
  EXPECT_EQ(status_of(spec), Status::SHARED_STORAGE)
      << "overlaps a.weight from its second element on";
  spec.data -= 8;
  EXPECT_EQ(status_of(spec), Status::SHARED_STORAGE) << "ends inside a.weight";
  spec = model_.spec(0);
  spec.name = "c.weight";
  for (const std::vector<uint32_t>& dims :
       {std::vector<uint32_t>{}, {0}, {2, 0}, {65536, 65536}, {1, 1, 1, 1, 1, 1, 1, 1, 1}}) {
    spec.dims = dims;
    EXPECT_EQ(status_of(spec), Status::INVALID_ARGUMENT) << shape_text(dims);
  }
  spec = model_.spec(0);
  spec.name = "c.weight";
  spec.region = nullptr;
  EXPECT_EQ(status_of(spec), Status::INVALID_ARGUMENT);
  EXPECT_EQ(program_.tensors().size(), 2U);
}

TEST_F(ProgramTest, RegistrationAsksTheRegion) {
  Model other;
  other.tensors.push_back(make_tensor("c", Dtype::f32, {1}, encode_values(Dtype::f32, {1})));
  other.region->failing_data = other.tensors[0].data();
  other.region->failing_status = Status::READ_ONLY;
  const Result<void> refused = program_.add_tensor(other.spec(0));
  EXPECT_EQ(refused.error().status, Status::READ_ONLY);
  EXPECT_EQ(refused.error().tensor, "c");
}

TEST_F(ProgramTest, ManyTensorsAreAddedAllOrNone) {
  Model other;
  other.tensors.push_back(make_tensor("c", Dtype::f32, {1}, encode_values(Dtype::f32, {1})));
  EXPECT_EQ(program_.add_tensors({other.spec(0), model_.spec(1)}).error().status,
            Status::DUPLICATE_NAME);
  EXPECT_EQ(program_.add_tensors({other.spec(0), other.spec(0)}).error().status,
            Status::DUPLICATE_NAME);
  const auto& list = program_.tensors();
  EXPECT_EQ(list.size(), 2U);
  EXPECT_TRUE(program_.add_tensors({other.spec(0)}).ok());
  EXPECT_EQ(list.size(), 2U) << "a list that was handed out stays as it is";
  EXPECT_EQ(program_.tensors().size(), 3U);
}

TEST_F(ProgramTest, TensorsComeBeforeAdapters) {
  add(on_a_);
  Model other;
  other.tensors.push_back(make_tensor("c", Dtype::f32, {1}, encode_values(Dtype::f32, {1})));
  EXPECT_EQ(program_.add_tensor(other.spec(0)).error().status, Status::NOT_SUPPORTED);
}

TEST_F(ProgramTest, TwoNamesForTheSameBytesAreNotPatched) {
  TensorSpec tied = model_.spec(0);
  tied.name = "tied.weight";
  ASSERT_TRUE(program_.add_tensor(tied).ok());
  AdapterInput input = on_a_.input;
  EXPECT_EQ(add_error(input).status, Status::SHARED_STORAGE);
  input.tensors[0].name = "tied.weight";
  const Error error = add_error(input);
  EXPECT_EQ(error.status, Status::SHARED_STORAGE);
  EXPECT_NE(error.message.find("a.weight"), std::string::npos) << error.message;
}

TEST_F(ProgramTest, BindingNamesWhatDoesNotMatch) {
  AdapterInput input = on_a_.input;
  input.tensors[0].dims = {3, 2};
  Error error = add_error(input);
  EXPECT_EQ(error.status, Status::SHAPE_MISMATCH);
  EXPECT_EQ(error.tensor, "a.weight");
  EXPECT_EQ(error.file, "on_a.shb");
  EXPECT_NE(error.message.find("[3, 2], the program's tensor has [2, 3] (transposed)"),
            std::string::npos)
      << error.message;

  input = on_b_.input;
  input.tensors[0].dtype = Dtype::f16;
  input.tensors[0].value_dtype = Dtype::f16;
  error = add_error(input);
  EXPECT_EQ(error.status, Status::DTYPE_MISMATCH);
  EXPECT_EQ(error.tensor, "b.weight");

  input = on_a_.input;
  input.tensors[0].name = "nobody.weight";
  error = add_error(input);
  EXPECT_EQ(error.status, Status::UNKNOWN_TENSOR);
  EXPECT_EQ(error.tensor, "nobody.weight");
  AddOptions partial;
  partial.allow_partial = true;
  EXPECT_EQ(add_error(input, partial).status, Status::UNKNOWN_TENSOR) << "none matches";
  input.tensors.push_back(on_b_.input.tensors[0]);
  EXPECT_EQ(add_error(input).status, Status::UNKNOWN_TENSOR);
  add(seal(input), partial);
  EXPECT_EQ(switch_to({{"on_a", 1}}).tensors_matched, 1U);
  EXPECT_EQ(model_.live()[0], model_.pristine()[0]);
  EXPECT_EQ(model_.live()[1], encode_values(Dtype::bf16, {10, 2, 3, 40}));
}

TEST_F(ProgramTest, UnboundAdaptersNeedPermission) {
  AdapterInput input = on_a_.input;
  input.bound = false;
  input.tensors[0].kind = ValueKind::delta;
  EXPECT_EQ(add_error(input).status, Status::UNVERIFIED_BASE);
  AddOptions allow;
  allow.allow_unverified_base = true;
  add(seal(input), allow);
  switch_to({{"on_a", 0.5F}});
  EXPECT_EQ(model_.live()[0], encode_values(Dtype::f32, {1, 12, 3, 4, 30, 6}));
  switch_to({});
  EXPECT_EQ(model_.live(), model_.pristine());
}

TEST_F(ProgramTest, NamesAreUniqueAndChoosable) {
  add(on_a_);
  EXPECT_EQ(program_.add_adapter(on_a_.source, {}).error().status, Status::DUPLICATE_NAME);
  AddOptions options;
  options.name = "again";
  EXPECT_EQ(program_.add_adapter(on_a_.source, options).value(), "again");
  EXPECT_EQ(program_.adapter_names(), (std::vector<std::string>{"again", "on_a"}));
  EXPECT_EQ(program_.add_adapter(nullptr, {}).error().status, Status::INVALID_ARGUMENT);
}

TEST_F(ProgramTest, RemovingAnAdapter) {
  add_all();
  switch_to({{"on_a", 1}});
  EXPECT_EQ(program_.remove_adapter("on_a").error().status, Status::ADAPTER_IN_USE);
  EXPECT_EQ(program_.remove_adapter("nobody").error().status, Status::UNKNOWN_ADAPTER);
  switch_to({{"on_b", 1}});
  ASSERT_TRUE(program_.remove_adapter("on_a").ok());
  EXPECT_EQ(switch_error({{"on_a", 1}}).status, Status::UNKNOWN_ADAPTER);
  add(on_a_);
  switch_to({{"on_a", 1}});
  EXPECT_EQ(model_.live()[0], encode_values(Dtype::f32, {1, 20, 3, 4, 50, 6}));
}

TEST_F(ProgramTest, CountsAreExact) {
  add_all();
  SwitchReport report = switch_to({{"on_a", 1}});
  EXPECT_EQ(report.tensors_matched, 1U);
  EXPECT_EQ(report.elements_written, 2U);
  EXPECT_EQ(report.elements_changed, 2U);
  EXPECT_EQ(report.bytes_written, 8U);
  EXPECT_EQ(report.epoch, 1U);
  EXPECT_GT(report.total_ns, 0U);
  report = switch_to({{"both", 1}});  // a: 1 and 4 restored, 0 and 1 written; b: 1 written
  EXPECT_EQ(report.tensors_matched, 2U);
  EXPECT_EQ(report.elements_written, 5U);
  EXPECT_EQ(report.elements_changed, 4U);
  EXPECT_EQ(report.bytes_written, 18U);
  EXPECT_EQ(report.epoch, 2U);
  report = switch_to({{"both", 1}, {"on_a", 0}});
  EXPECT_EQ(report.elements_written, 0U) << "scale 0 is nobody: the state is already active";
  EXPECT_EQ(report.epoch, 2U);
}

TEST_F(ProgramTest, TheEpochStaysWhenNoWeightChanges) {
  AddOptions options;
  options.name = "noop";
  add(simple_adapter("noop", model_.tensors[0], {2, 3}, {3, 4}));
  add(on_a_);
  const SwitchReport report = switch_to({{"noop", 1}});
  EXPECT_EQ(report.elements_written, 2U);
  EXPECT_EQ(report.elements_changed, 0U);
  EXPECT_EQ(report.epoch, 0U);
  EXPECT_EQ(program_.digest(), hash128("", 0));
  EXPECT_EQ(program_.active().size(), 1U);
  switch_to({{"on_a", 1}});
  const Hash128 digest = program_.digest();
  EXPECT_EQ(switch_to({{"on_a", 1}, {"noop", 1}}).epoch, 1U);
  EXPECT_EQ(program_.digest(), digest);
}

TEST_F(ProgramTest, BadMembersAreRefused) {
  add_all();
  switch_to({{"on_b", 1}});
  EXPECT_EQ(switch_error({{"nobody", 1}}).status, Status::UNKNOWN_ADAPTER);
  EXPECT_EQ(switch_error({{"nobody", 0}}).status, Status::UNKNOWN_ADAPTER);
  EXPECT_EQ(switch_error({{"on_a", 1}, {"on_a", 0.5F}}).status, Status::INVALID_ARGUMENT);
  EXPECT_EQ(switch_error({{"on_a", NAN}}).status, Status::INVALID_ARGUMENT);
  EXPECT_EQ(switch_error({{"on_a", -INFINITY}}).status, Status::INVALID_ARGUMENT);
}

TEST_F(ProgramTest, AWrongBaseInTheLastTensorStopsEverything) {
  AdapterInput input = both_.input;
  input.tensors[1].fingerprint[5] ^= 1;
  add(seal(input));
  add(on_b_);
  switch_to({{"on_b", 1}});
  const Error error = switch_error({{"both", 1}});
  EXPECT_EQ(error.status, Status::BASE_MISMATCH);
  EXPECT_EQ(error.tensor, "b.weight");
  EXPECT_EQ(error.file, "both.shb");
  EXPECT_EQ(program_.check_adapter("both").error().status, Status::BASE_MISMATCH);
  switch_to({});
  EXPECT_EQ(model_.live(), model_.pristine());
}

TEST_F(ProgramTest, ApplyingTwiceThroughTwoProgramsIsRefused) {
  add_all();
  switch_to({{"on_a", 1}});
  Program second;
  model_.register_with(&second);
  ASSERT_TRUE(second.add_adapter(on_a_.source, {}).ok());
  const std::vector<Bytes> bytes = model_.live();
  const Result<SwitchReport> result = second.switch_to({{"on_a", 1}});
  EXPECT_EQ(result.error().status, Status::BASE_MISMATCH);
  EXPECT_EQ(result.error().tensor, "a.weight");
  EXPECT_EQ(model_.live(), bytes);
}

TEST_F(ProgramTest, AForeignPatchAtATouchedPositionIsNamed) {
  add_all();
  switch_to({{"on_a", 1}});
  switch_to({});
  model_.tensors[0].data()[4 * 4 + 1] ^= 0xFF;  // flat index 4
  const Error error = switch_error({{"on_a", 1}});
  EXPECT_EQ(error.status, Status::BASE_MISMATCH);
  EXPECT_EQ(error.tensor, "a.weight");
  EXPECT_NE(error.message.find("1 of 2"), std::string::npos) << error.message;
  EXPECT_NE(error.message.find("flat index 4"), std::string::npos) << error.message;
  EXPECT_EQ(program_.check_adapter("on_a").error().status, Status::BASE_MISMATCH);
  EXPECT_TRUE(program_.check_adapter("on_b").ok());
}

TEST_F(ProgramTest, EnteringAdaptersSeeThroughActiveOnes) {
  add_all();
  switch_to({{"both", 1}});
  EXPECT_TRUE(program_.check_adapter("on_a").ok()) << "they overlap at flat index 1";
  switch_to({{"on_a", 1}});
  EXPECT_EQ(model_.live()[0], encode_values(Dtype::f32, {1, 20, 3, 4, 50, 6}));
}

TEST_F(ProgramTest, ADetachedRegionStopsEverything) {
  add_all();
  switch_to({{"on_a", 1}});
  for (const Status status : {Status::DETACHED, Status::READ_ONLY}) {
    model_.region->failing_status = status;
    model_.region->failing_data = model_.tensors[1].data();
    const Error error = switch_error({{"both", 1}});
    EXPECT_EQ(error.status, status);
    EXPECT_EQ(error.tensor, "b.weight");
    EXPECT_EQ(program_.check_adapter("both").error().status, status);
    EXPECT_EQ(program_.verify_base().error().status, status);
    model_.region->failing_data = model_.tensors[0].data();
    EXPECT_EQ(switch_error({{"on_b", 1}}).status, status) << "the old state's tensor counts too";
  }
  model_.region->failing_data = nullptr;
  switch_to({{"both", 1}});
  switch_to({});
  EXPECT_EQ(model_.live(), model_.pristine());
}

TEST_F(ProgramTest, NonFiniteResultsAreRefused) {
  Model large;
  large.tensors.push_back(
      make_tensor("h", Dtype::f16, {4}, encode_values(Dtype::f16, {1, -60000, 2, 3})));
  Program program;
  large.register_with(&program);
  ASSERT_TRUE(
      program.add_adapter(simple_adapter("x", large.tensors[0], {1, 2}, {60000, 5}).source, {})
          .ok());
  ASSERT_TRUE(program.add_adapter(simple_adapter("y", large.tensors[0], {2}, {6}).source, {}).ok());
  Result<SwitchReport> result = program.switch_to({{"x", 2.0F}});
  EXPECT_EQ(result.error().status, Status::NON_FINITE_RESULT);
  EXPECT_EQ(result.error().tensor, "h");
  EXPECT_NE(result.error().message.find("flat index 1"), std::string::npos)
      << result.error().message;
  EXPECT_EQ(large.live(), large.pristine());
  EXPECT_EQ(program.epoch(), 0U);
  // At scale 1 the target is finite and exact, although base + (target - base) is formed from large
  // numbers; stacked as well.
  ASSERT_TRUE(program.switch_to({{"x", 1.0F}, {"y", 1.0F}}).ok());
  EXPECT_EQ(large.live()[0], encode_values(Dtype::f16, {1, 60000, 2 + 3 + 4, 3}));
  EXPECT_EQ(program.switch_to({{"x", 3.0F}, {"y", 1.0F}}).error().status,
            Status::NON_FINITE_RESULT);
  EXPECT_EQ(large.live()[0], encode_values(Dtype::f16, {1, 60000, 2 + 3 + 4, 3}));
}

TEST_F(ProgramTest, StackedF32TargetsStayExactWhereTheSumOverflows) {
  Model large;
  large.tensors.push_back(
      make_tensor("w", Dtype::f32, {2}, encode_values(Dtype::f32, {-3e38F, 1})));
  Program program;
  large.register_with(&program);
  ASSERT_TRUE(
      program.add_adapter(simple_adapter("x", large.tensors[0], {0}, {3e38F}).source, {}).ok());
  ASSERT_TRUE(program.add_adapter(simple_adapter("y", large.tensors[0], {1}, {6}).source, {}).ok());
  ASSERT_TRUE(program.switch_to({{"x", 1}, {"y", 1}}).ok());
  EXPECT_EQ(large.live()[0], encode_values(Dtype::f32, {3e38F, 6}));
}

TEST_F(ProgramTest, VerifyBaseFindsAPatchAnywhereInAnyState) {
  add_all();
  for (const std::vector<Member>& members :
       {std::vector<Member>{}, {{"on_a", 1}}, {{"both", 0.5F}, {"on_b", 1}}}) {
    switch_to(members);
    EXPECT_TRUE(program_.verify_base().value().modified.empty());
    model_.tensors[0].data()[5 * 4] ^= 1;  // touched by nobody
    const VerifyReport report = program_.verify_base().value();
    ASSERT_EQ(report.modified.size(), 1U);
    EXPECT_EQ(report.modified[0].name, "a.weight");
    EXPECT_EQ(report.tensors_checked, 2U);
    EXPECT_EQ(report.bytes_checked, 32U);
    model_.tensors[0].data()[5 * 4] ^= 1;
  }
}

TEST_F(ProgramTest, VerifyBaseNamesTheAdapterOfAnotherBase) {
  AdapterInput input = on_a_.input;
  input.tensors[0].base_digest[0] ^= 1;  // the touched values agree, others do not
  add(seal(input));
  const VerifyReport report = program_.verify_base().value();
  ASSERT_EQ(report.modified.size(), 1U);
  EXPECT_EQ(report.modified[0].name, "a.weight");
  EXPECT_EQ(report.modified[0].adapter, "on_a");
}

TEST_F(ProgramTest, HardRevertNeedsASource) {
  add_all();
  switch_to({{"both", 1}});
  EXPECT_EQ(program_.hard_revert().error().status, Status::NOT_SUPPORTED);
  EXPECT_EQ(program_.active().size(), 1U);
}

TEST_F(ProgramTest, ThreadCountsAreChecked) {
  EXPECT_EQ(program_.set_thread_count(0).error().status, Status::INVALID_ARGUMENT);
  EXPECT_EQ(program_.set_thread_count(65).error().status, Status::INVALID_ARGUMENT);
  EXPECT_TRUE(program_.set_thread_count(64).ok());
  EXPECT_EQ(program_.thread_count(), 64U);
}

// Tensors whose regions have a source file to compare with and to revert to.
class SourceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::mt19937_64 random(5);
    for (size_t i = 0; i < 2; ++i) {
      Model& model = models_[i];
      model.tensors.push_back(make_tensor(
          "t" + std::to_string(i), Dtype::f16, {1100, 600},
          random_bytes(random, Dtype::f16, size_t{1100} * 600)));  // more than one chunk
      model.region->live = &model.tensors[0].buffer;
      model.region->pristine = model.tensors[0].buffer;
      model.register_with(&program_);
      all_.tensors.push_back(model.tensors[0]);
    }
    adapters_.emplace("x", random_adapter(random, "x", all_, ValueKind::target, 0.1));
    adapters_.emplace("y", random_adapter(random, "y", all_, ValueKind::delta, 0.1));
    for (const auto& [name, adapter] : adapters_)
      ASSERT_TRUE(program_.add_adapter(adapter.source, {}).ok());
  }
  std::vector<Bytes> live() const { return {models_[0].live()[0], models_[1].live()[0]}; }

  Model models_[2];
  Model all_;
  Adapters adapters_;
  Program program_;
};

TEST_F(SourceTest, VerifyBaseTellsTheFirstDifferingByte) {
  for (const std::vector<Member>& members :
       {std::vector<Member>{}, {{"x", 1}}, {{"x", 0.5F}, {"y", 1}}}) {
    ASSERT_TRUE(program_.switch_to(members).ok());
    ASSERT_TRUE(program_.verify_base().value().modified.empty());
    const Expected expected = expected_state(all_, adapters_, members);
    uint32_t index = 660000 - 7;
    while (expected.touched[1][index] != 0) --index;
    models_[1].tensors[0].data()[index * 2 + 1] ^= 4;
    const VerifyReport report = program_.verify_base().value();
    ASSERT_EQ(report.modified.size(), 1U);
    EXPECT_EQ(report.modified[0].name, "t1");
    EXPECT_EQ(report.modified[0].first_offset_bytes, index * 2 + 1);
    models_[1].tensors[0].data()[index * 2 + 1] ^= 4;
  }
}

TEST_F(SourceTest, HardRevertGoesBackToTheBase) {
  const SwitchReport applied = program_.switch_to({{"x", 1}}).value();
  const SwitchReport report = program_.hard_revert().value();
  EXPECT_EQ(live(), all_.pristine());
  EXPECT_EQ(report.elements_written, 0U);
  EXPECT_EQ(report.elements_changed, applied.elements_changed);
  EXPECT_EQ(report.tensors_matched, applied.tensors_matched);
  EXPECT_EQ(report.epoch, 2U);
  EXPECT_TRUE(program_.active().empty());
  EXPECT_EQ(program_.hard_revert().value().epoch, 2U) << "nothing left to change";
  ASSERT_TRUE(program_.switch_to({{"y", 1}}).ok());
  EXPECT_EQ(live(), expected_state(all_, adapters_, {{"y", 1}}).bytes);
}

TEST_F(SourceTest, HardRevertGrowsTheEpochExactlyWhenWeightsChange) {
  uint8_t* foreign = models_[1].tensors[0].data() + 123;
  *foreign ^= 1;
  SwitchReport report = program_.hard_revert().value();
  EXPECT_EQ(live(), all_.pristine());
  EXPECT_EQ(report.elements_changed, 1U);
  EXPECT_EQ(report.epoch, 1U) << "another's store went with the pages";

  // Undone by somebody else beforehand, there is nothing left to change.
  ASSERT_TRUE(program_.switch_to({{"x", 1}}).ok());
  for (Model& model : models_)
    std::copy_n(model.region->pristine.begin(), model.region->pristine.size(),
                model.region->live->begin());
  report = program_.hard_revert().value();
  EXPECT_EQ(report.elements_changed, 0U);
  EXPECT_EQ(report.epoch, 2U);
  EXPECT_TRUE(program_.active().empty());
}

TEST_F(SourceTest, AFailedHardRevertGrowsTheEpochWhenAnothersStoreIsLost) {
  ASSERT_TRUE(program_.switch_to({{"x", 1}, {"y", 1}}).ok());
  models_[1].region->revert_error = Error{Status::DETACHED, "the file is another one by now"};
  const std::vector<Bytes> bytes = live();
  models_[1].tensors[0].data()[5] ^= 1;  // its pages stay
  EXPECT_EQ(program_.hard_revert().error().status, Status::DETACHED);
  EXPECT_EQ(program_.epoch(), 1U);
  // A value of the active state, so that as many elements differ from the source as before.
  const Expected expected = expected_state(all_, adapters_, {{"x", 1}, {"y", 1}});
  size_t index = 0;
  while (expected.touched[0][index] == 0) ++index;
  models_[0].tensors[0].data()[index * 2] ^= 1;
  EXPECT_EQ(program_.hard_revert().error().status, Status::DETACHED);
  EXPECT_EQ(models_[0].live()[0], bytes[0]);
  EXPECT_EQ(program_.epoch(), 2U);
  EXPECT_EQ(program_.active().size(), 2U);
}

TEST_F(SourceTest, AFailedHardRevertKeepsTheState) {
  ASSERT_TRUE(program_.switch_to({{"x", 1}, {"y", 0.5F}}).ok());
  const std::vector<Bytes> bytes = live();
  models_[1].region->revert_error = Error{Status::DETACHED, "the file is another one by now"};
  EXPECT_EQ(program_.hard_revert().error().status, Status::DETACHED);
  EXPECT_EQ(live(), bytes);
  EXPECT_EQ(program_.epoch(), 1U);
  EXPECT_EQ(program_.active().size(), 2U);
  EXPECT_TRUE(program_.switch_to({}).ok());
  EXPECT_EQ(live(), all_.pristine());
}

TEST_F(SourceTest, AFailedHardRevertStoresNothingIntoMemoryThatIsGone) {
  ASSERT_TRUE(program_.switch_to({{"x", 1}, {"y", 1}}).ok());
  ASSERT_NE(models_[0].live(), models_[0].pristine());
  const Bytes second = models_[1].live()[0];
  models_[0].region->is_lost_on_revert = true;
  models_[1].region->revert_error = Error{Status::DETACHED, "the file is another one by now"};
  EXPECT_EQ(program_.hard_revert().error().status, Status::DETACHED);
  EXPECT_EQ(models_[0].live(), models_[0].pristine()) << "somebody else's memory was written";
  EXPECT_EQ(models_[1].live()[0], second);
}

}  // namespace
}  // namespace shira::testing
