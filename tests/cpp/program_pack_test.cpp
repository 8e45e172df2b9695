// Adapters of packs, tiers, derived masks, scaled and integer values, and required signatures.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <functional>

#include "runtime/binding.h"
#include "runtime_support.h"

namespace shira::testing {
namespace {

Model one_of_each_dtype(std::mt19937_64& random) {
  Model model;
  for (const Dtype dtype : {Dtype::f32, Dtype::f16, Dtype::bf16}) {
    model.tensors.push_back(make_tensor(std::string("w.") + dtype_name(dtype), dtype, {40, 60},
                                        random_bytes(random, dtype, 2400)));
  }
  return model;
}

void add(Program* program, const TestAdapter& adapter) {
  const Result<std::string> added = program->add_adapter(adapter.source, {});
  ASSERT_TRUE(added.ok()) << added.error().message;
}

TEST(ProgramPack, EightAdaptersOfOneMaskSwitchWithTheRightBytes) {
  std::mt19937_64 random(1);
  for (const IndexCodec codec : {IndexCodec::rice, IndexCodec::runs, IndexCodec::structured,
                                 IndexCodec::random, IndexCodec::top_magnitude}) {
    Model model = one_of_each_dtype(random);
    std::vector<AdapterInput> inputs(8);
    for (const LiveTensor& tensor : model.tensors) {
      TensorInput mask = tensor_of(tensor, ValueKind::target);
      do {
        set_random_mask(random, tensor, 0.05, &mask);
      } while (mask.codec != codec);
      for (size_t i = 0; i < inputs.size(); ++i) {
        TensorInput row = mask;
        row.kind = i % 2 == 0 ? ValueKind::target : ValueKind::delta;
        set_random_values(random, tensor, random_codec(random, tensor, row.kind), &row);
        row.set_base(tensor.pristine);
        inputs[i].name = "a" + std::to_string(i);
        inputs[i].tensors.push_back(std::move(row));
      }
    }
    Adapters adapters;
    Program program;
    model.register_with(&program);
    uint64_t entry_count = 0;
    for (const TestAdapter& adapter : seal_pack(inputs)) {
      add(&program, adapter);
      adapters.emplace(adapter.input.name, adapter);
      entry_count = adapter.source->entry_count();
    }
    for (int step = 0; step < 30; ++step) {
      const std::string name = "a" + std::to_string(random() % 8);
      std::vector<Member> members = {{name, step % 3 == 0 ? 0.5F : 1.0F}};
      if (step % 5 == 4) members.push_back({name == "a0" ? "a1" : "a0", 0.25F});
      const Result<SwitchReport> report = program.switch_to(members);
      ASSERT_TRUE(report.ok()) << report.error().message;
      ASSERT_EQ(model.live(), expected_state(model, adapters, members).bytes);
      // One pass: each position is written once, nothing is restored.
      if (report.value().elements_written > 0) {
        EXPECT_EQ(report.value().elements_written, entry_count);
      }
    }
    ASSERT_TRUE(program.switch_to({}).ok());
    EXPECT_EQ(model.live(), model.pristine());
  }
}

// --- shared positions

class BindingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::mt19937_64 random(2);
    model_ = one_of_each_dtype(random);
    std::vector<TensorSpec> specs;
    for (size_t i = 0; i < model_.tensors.size(); ++i) specs.push_back(model_.spec(i));
    ASSERT_TRUE(weights_.add(std::move(specs)).ok());
  }

  std::shared_ptr<BoundAdapter> bind(const TestAdapter& adapter) {
    const BindContext context{weights_, active_, others_, *pool_};
    Result<std::shared_ptr<BoundAdapter>> bound = bind_adapter(adapter.source, {}, context);
    EXPECT_TRUE(bound.ok()) << bound.error().message;
    others_.push_back(bound.value());
    return bound.value();
  }

  // The same mask for every tensor, and other values for every seed.
  TestAdapter masked(const std::function<void(const LiveTensor&, TensorInput*)>& set_mask,
                     uint64_t seed) {
    std::mt19937_64 random(seed);
    AdapterInput input;
    input.name = "a" + std::to_string(seed);
    for (const LiveTensor& tensor : model_.tensors) {
      TensorInput row = tensor_of(tensor, ValueKind::target);
      set_mask(tensor, &row);
      set_random_values(random, tensor, static_cast<ValueCodec>(tensor.dtype), &row);
      row.set_base(tensor.pristine);
      input.tensors.push_back(std::move(row));
    }
    return seal(input);
  }

  Model model_;
  WeightTable weights_;
  ActiveSet active_;
  std::vector<std::shared_ptr<BoundAdapter>> others_;
  std::shared_ptr<ThreadPool> pool_ = ThreadPool::make(1).value();
};

TEST_F(BindingTest, TensorsWithEqualPositionsShareThem) {
  const auto even = [](const LiveTensor& tensor, TensorInput* row) {
    for (uint32_t i = 0; i < tensor.numel(); i += 2) row->index.push_back(i);
  };
  const auto odd = [](const LiveTensor& tensor, TensorInput* row) {
    for (uint32_t i = 1; i < tensor.numel(); i += 2) row->index.push_back(i);
  };
  const auto columns = [](const LiveTensor& tensor, TensorInput* row) {
    set_structured(row, tensor.numel(), 2, 2, 0);  // the even columns, by rule
  };
  const auto first = bind(masked(even, 1));
  const auto second = bind(masked(even, 2));  // another file
  const auto other = bind(masked(odd, 3));
  const auto derived = bind(masked(columns, 4));
  ASSERT_EQ(first->tensors.size(), 3U);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(second->tensors[i].positions, first->tensors[i].positions);
    EXPECT_NE(other->tensors[i].positions, first->tensors[i].positions);
    const IndexList& list = *derived->tensors[i].positions->list;
    if (!list.is_runs()) {
      EXPECT_EQ(derived->tensors[i].positions, first->tensors[i].positions);
    }
    EXPECT_EQ(positions_of(list), positions_of(*first->tensors[i].positions->list));
    for (size_t j = 0; j < i; ++j)
      EXPECT_NE(first->tensors[i].positions, first->tensors[j].positions)
          << "pages differ between tensors";
  }
}

// --- derived masks

class DerivedTest : public ::testing::TestWithParam<IndexCodec> {};

TEST_P(DerivedTest, GivesTheBytesOfTheExplicitMask) {
  std::mt19937_64 random(3);
  for (int round = 0; round < 20; ++round) {
    Model model = one_of_each_dtype(random);
    AdapterInput derived;
    derived.name = "derived";
    for (const LiveTensor& tensor : model.tensors) {
      TensorInput row;
      do {
        row = random_tensor(random, tensor, ValueKind::target, 0.1);
      } while (row.codec != GetParam());
      derived.tensors.push_back(std::move(row));
    }
    AdapterInput listed = derived;
    listed.name = "listed";
    for (TensorInput& row : listed.tensors) {
      row.codec = IndexCodec::gaps8;
      row.block_length = 1;
      row.coded.reset();
    }
    Program program;
    model.register_with(&program);
    // What is active changes every weight, the largest among them.
    AdapterInput everything;
    everything.name = "everything";
    for (const LiveTensor& tensor : model.tensors) {
      std::vector<uint32_t> all(tensor.numel());
      for (uint32_t i = 0; i < all.size(); ++i) all[i] = i;
      everything.tensors.push_back(
          simple_tensor(tensor, all, std::vector<float>(all.size(), 1.0F)));
    }
    add(&program, seal(everything));
    if (round % 2 == 1) {
      ASSERT_TRUE(program.switch_to({{"everything", 1}}).ok());
    }
    add(&program, seal(derived));
    add(&program, seal(listed));
    ASSERT_TRUE(program.switch_to({{"listed", 1}}).ok());
    const std::vector<Bytes> expected = model.live();
    EXPECT_NE(expected, model.pristine());
    ASSERT_TRUE(program.switch_to({{"everything", 1}}).ok());
    ASSERT_TRUE(program.check_adapter("derived").ok());
    ASSERT_TRUE(program.switch_to({{"derived", 1}}).ok());
    ASSERT_EQ(model.live(), expected);
    ASSERT_TRUE(program.switch_to({}).ok());
    ASSERT_EQ(model.live(), model.pristine());
  }
}

INSTANTIATE_TEST_SUITE_P(All, DerivedTest,
                         ::testing::Values(IndexCodec::structured, IndexCodec::random,
                                           IndexCodec::top_magnitude));

TEST(ProgramPack, AMaskOfTheLargestIsFoundInCheckedMemoryOnly) {
  std::mt19937_64 random(4);
  Model model = one_of_each_dtype(random);
  Program program;
  model.register_with(&program);
  AdapterInput input;
  input.name = "top";
  TensorInput row = tensor_of(model.tensors[1], ValueKind::target);
  set_top_magnitude(&row, model.tensors[1], 30);
  set_random_values(random, model.tensors[1], ValueCodec::f16, &row);
  row.set_base(model.tensors[1].pristine);
  input.tensors = {row};
  const TestAdapter adapter = seal(input);
  model.region->failing_data = model.tensors[1].data();
  const Result<std::string> refused = program.add_adapter(adapter.source, {});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().status, Status::DETACHED);
  EXPECT_EQ(refused.error().tensor, "w.f16");
  EXPECT_TRUE(program.adapter_names().empty());
  model.region->failing_data = model.tensors[0].data();
  add(&program, adapter);
}

TEST(ProgramPack, AMaskOfTheLargestOfAnotherBaseIsRefused) {
  std::mt19937_64 random(5);
  Model model = one_of_each_dtype(random);
  AdapterInput input;
  input.name = "top";
  TensorInput row = tensor_of(model.tensors[0], ValueKind::target);
  set_top_magnitude(&row, model.tensors[0], 30);
  set_random_values(random, model.tensors[0], ValueCodec::f32, &row);
  row.set_base(model.tensors[0].pristine);
  input.tensors = {row};
  const float large = 1e6F;
  std::memcpy(model.tensors[0].data(), &large, sizeof(large));
  Program program;
  model.register_with(&program);
  add(&program, seal(input));
  EXPECT_EQ(program.switch_to({{"top", 1}}).error().status, Status::BASE_MISMATCH);
}

// --- tiers

TEST(ProgramPack, OpenedTiersGiveTheirEntriesAndNoOthers) {
  std::mt19937_64 random(6);
  for (int round = 0; round < 20; ++round) {
    Model model = one_of_each_dtype(random);
    const ValueKind kind = round % 2 == 0 ? ValueKind::target : ValueKind::delta;
    const AdapterInput input = random_input(random, "a", model, kind, 0.1, 3);
    for (uint32_t opened = 1; opened <= 3; ++opened) {
      const TestAdapter adapter = seal_pack({input}, opened)[0];
      EXPECT_EQ(adapter.source->file->tier_count(), 3U);
      EXPECT_EQ(adapter.source->file->opened_tier_count(), opened);
      Program program;
      model.register_with(&program);
      add(&program, adapter);
      for (const float scale : {1.0F, 0.7F}) {
        ASSERT_TRUE(program.switch_to({{"a", scale}}).ok());
        ASSERT_EQ(model.live(), expected_state(model, {{"a", adapter}}, {{"a", scale}}).bytes);
      }
      ASSERT_TRUE(program.switch_to({}).ok());
      ASSERT_EQ(model.live(), model.pristine());
    }
  }
}

TEST(ProgramPack, AnAdapterWithEntriesInClosedTiersOnlyIsRefused) {
  std::mt19937_64 random(7);
  Model model = one_of_each_dtype(random);
  const LiveTensor& tensor = model.tensors[0];
  AdapterInput low;
  low.name = "low";
  low.tensors = random_tiers(random, tensor, ValueKind::target, 0.1, 2);
  AdapterInput high;
  high.name = "high";
  high.tensors = {low.tensors[1]};
  high.tensors[0].set_base(tensor.pristine);
  const std::vector<TestAdapter> pack = seal_pack({low, high}, 1);
  ASSERT_TRUE(pack[1].source->tensors.empty());
  Program program;
  model.register_with(&program);
  const Result<std::string> refused = program.add_adapter(pack[1].source, {});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().status, Status::UNKNOWN_TENSOR);
  EXPECT_NE(refused.error().message.find("tiers"), std::string::npos);
  EXPECT_EQ(refused.error().file, "low.shb");
  EXPECT_TRUE(program.adapter_names().empty());
  add(&program, pack[0]);
}

// --- values

TEST(ProgramPack, ScaledDeltasAreLevelsTimesScales) {
  Model model;
  model.tensors.push_back(
      make_tensor("w", Dtype::f32, {100}, encode_values(Dtype::f32, std::vector<float>(100, 1))));
  struct Case {
    ValueCodec codec;
    std::vector<int> levels;
  };
  for (const Case& each : {Case{ValueCodec::q8, {-128, 127, 0}}, Case{ValueCodec::q4, {-8, 7, 0}},
                           Case{ValueCodec::q2, {-3, 3, 1}}, Case{ValueCodec::q1, {-1, 1, 1}}}) {
    TensorInput row = tensor_of(model.tensors[0], ValueKind::delta);
    ScaledValues scaled;
    scaled.codec = each.codec;
    scaled.exponent = -3;
    scaled.scales = {0x3E00, 0x4400};  // 1.5 and 4
    for (uint32_t i = 0; i < 70; ++i) {
      row.index.push_back(i);
      scaled.levels.push_back(each.levels[i % 3]);
    }
    row.scaled = scaled;
    row.set_base(model.tensors[0].pristine);
    AdapterInput input;
    input.name = "a";
    input.tensors = {row};
    Program program;
    model.register_with(&program);
    add(&program, seal(input));
    ASSERT_TRUE(program.switch_to({{"a", -0.5F}}).ok());
    std::vector<float> expected(100, 1);
    for (uint32_t i = 0; i < 70; ++i) {
      const float scale = i < 64 ? 1.5F / 8 : 4.0F / 8;
      expected[i] = 1 - 0.5F * scale * static_cast<float>(each.levels[i % 3]);
    }
    EXPECT_EQ(model.live()[0], encode_values(Dtype::f32, expected));
    ASSERT_TRUE(program.switch_to({}).ok());
  }
}

TEST(ProgramPack, IntegerCodesFitNoFloats) {
  Model model;
  model.tensors.push_back(
      make_tensor("w", Dtype::f32, {4}, encode_values(Dtype::f32, {1, 2, 3, 4})));
  Program program;
  model.register_with(&program);
  for (const Dtype dtype : {Dtype::i8, Dtype::i4}) {
    TensorInput row;
    row.name = "w";
    row.dtype = dtype;
    row.dims = {4};
    row.index = {1, 3};
    row.value_dtype = dtype;
    row.set_values({-8, 7});
    row.set_base(encode_values(dtype, {1, 2, 3, 4}));
    AdapterInput input;
    input.tensors = {row};
    const Result<std::string> refused = program.add_adapter(seal(input).source, {});
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().status, Status::DTYPE_MISMATCH);
    EXPECT_EQ(refused.error().tensor, "w");
    EXPECT_NE(refused.error().message.find("integer codes"), std::string::npos);
  }
}

// --- signatures (what a right one opens is tested in Python, where files can be signed)

TEST(ProgramPack, AProgramWithAKeyRefusesUnsignedFiles) {
  std::mt19937_64 random(8);
  Model model = one_of_each_dtype(random);
  const Status expected = cryptography_available() ? Status::NOT_SIGNED : Status::NO_CRYPTOGRAPHY;
  const TestAdapter x = random_adapter(random, "x", model, ValueKind::target);
  const TestAdapter y = random_adapter(random, "y", model, ValueKind::target);
  const PublicKey key = {1, 2, 3};
  Program program;
  model.register_with(&program);
  add(&program, x);
  EXPECT_EQ(program.require_signature(key).error().status, expected);
  add(&program, y);  // the call that failed has changed nothing
  ASSERT_TRUE(program.remove_adapter("x").ok());
  ASSERT_TRUE(program.remove_adapter("y").ok());
  ASSERT_TRUE(program.require_signature(key).ok());
  const Result<std::string> refused = program.add_adapter(x.source, {});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().status, expected);
  EXPECT_EQ(refused.error().file, "x.shb");
  EXPECT_TRUE(program.adapter_names().empty());
}

}  // namespace
}  // namespace shira::testing
