// Tests of naming packed weights and their biases, and of who is packed into the same bytes.
// SPDX-License-Identifier: Apache-2.0
#include "attach/weight_names.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "weights_builder.h"

namespace shira {
namespace {

using test::Bytes;

/// A packed layer without names.
struct Layer {
  std::string key;
  std::string bias_key;  // "": no bias
  Dtype dtype = Dtype::f32;
  uint32_t group_length = 0;
  uint64_t scales = 0;  // where they are
};

ProgramWeight weight_of(const Layer& layer) {
  ProgramWeight weight;
  weight.owner = "XnnpackBackend";
  weight.storage = WeightStorage::packed;
  weight.dtype = layer.dtype;
  weight.dims = {2, 32};
  weight.group_length = layer.group_length;
  weight.key = layer.key;
  weight.codes = {0, {1000, 64}};
  weight.scales = {0, {layer.scales, 4}};
  weight.bias_key = layer.bias_key;
  if (!layer.bias_key.empty()) weight.bias = {0, {2000, 8}};
  weight.methods = {"forward"};
  return weight;
}

/// The weights under the names that a program's text gives them.
class Named {
 public:
  Named(std::vector<ProgramWeight> unnamed, const std::string& text)
      : bytes_(test::make_weights_pte(0, text).bytes) {
    const ByteReader reader(bytes_.data(), bytes_.size());
    auto program = std::move(ProgramSource::over(reader, "memory.pte").value());
    const auto names = read_weight_names(program.get());
    EXPECT_TRUE(names.ok()) << names.error().message;
    const auto named = name_weights(names.value(), program.get(), &unnamed);
    EXPECT_TRUE(named.ok()) << named.error().message;
    refuse_biases(&unnamed);
    weights = std::move(unnamed);
  }
  Named(const std::string& text, const std::vector<Layer>& layers)
      : Named(
            [&] {
              std::vector<ProgramWeight> unnamed;
              for (const Layer& layer : layers) unnamed.push_back(weight_of(layer));
              return unnamed;
            }(),
            text) {}

  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const ProgramWeight& weight : weights) all.push_back(weight.name);
    return all;
  }

  const ProgramWeight& operator[](const std::string& name) const {
    for (const ProgramWeight& weight : weights)
      if (weight.name == name) return weight;
    ADD_FAILURE() << "no weight " << name;
    static const ProgramWeight none;
    return none;
  }

  std::vector<ProgramWeight> weights;

 private:
  const Bytes bytes_;
};

using Names = std::vector<std::string>;

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(WeightNames, ABiasHasTheNameThatItsWeightsLineGives) {
  const Named named("a.weight\tk1\ta.bias\tb1\nb.weight\tk2\t\t\n", {{"k1", "b1"}, {"k2", ""}});
  EXPECT_EQ(named.names(), (Names{"a.bias", "a.weight", "b.weight"}));
  const ProgramWeight& bias = named["a.bias"];
  EXPECT_EQ(bias.beside, "a.weight");
  EXPECT_EQ(bias.storage, WeightStorage::packed_bias);
  EXPECT_EQ(bias.dtype, Dtype::f32);
  EXPECT_EQ(bias.dims, (std::vector<uint32_t>{2}));
  EXPECT_TRUE(bias.codes == named["a.weight"].bias);
  EXPECT_EQ(bias.methods, (Names{"forward"}));
  for (const ProgramWeight& weight : named.weights) {
    EXPECT_EQ(weight.why_not, "");
    EXPECT_EQ(weight.shares_storage_with, "");
  }
}

TEST(WeightNames, WithoutANameABiasGoesByItsWeightsKey) {
  const std::string key(64, 'd');
  const std::string by_key = "xnnpack:" + key.substr(0, 16) + ".bias";
  for (const std::string& line : {"a.weight\t" + key + "\n", "a.weight\t" + key + "\t\tb1\n",
                                  // Of a bias that the weight has not.
                                  "a.weight\t" + key + "\ta.bias\tb2\n"}) {
    const Named named(line, {{key, "b1", Dtype::f16}});
    EXPECT_EQ(named.names(), (Names{"a.weight", by_key})) << line;
    EXPECT_EQ(named[by_key].dtype, Dtype::f16);
    EXPECT_EQ(named[by_key].why_not, "");
    EXPECT_EQ(named["a.weight"].why_not, "");
  }
}

// What XNNPACK calls a packed weight has its bias's key, but with a scale for each row.
TEST(WeightNames, EqualCodesWithOtherBiasesArePackedApartOrOnce) {
  const std::string text = "a.weight\tk\ta.bias\tb1\nb.weight\tk\tb.bias\tb2\nc.weight\tk\t\t\n";
  const std::vector<std::pair<Dtype, uint32_t>> apart = {
      {Dtype::f32, 0}, {Dtype::f16, 0}, {Dtype::i4, 32}};
  for (const auto& [dtype, group_length] : apart) {
    const Named named(text, {{"k", "b2", dtype, group_length},
                             {"k", "", dtype, group_length},
                             {"k", "b1", dtype, group_length}});
    EXPECT_EQ(named.names(), (Names{"a.bias", "a.weight", "b.bias", "b.weight", "c.weight"}));
    EXPECT_EQ(named["a.weight"].bias_key, "b1");
    EXPECT_EQ(named["b.bias"].key, "b2");
    for (const ProgramWeight& weight : named.weights) {
      EXPECT_EQ(weight.why_not, "") << weight.name;
      EXPECT_EQ(weight.shares_storage_with, "") << weight.name;
    }
  }
  for (const Dtype dtype : {Dtype::i8, Dtype::i4}) {
    const Named named(text, {{"k", "b1", dtype}, {"k", "b2", dtype}, {"k", "", dtype}});
    EXPECT_EQ(named.weights.size(), 5U);
    for (const ProgramWeight& weight : named.weights)
      EXPECT_TRUE(contains(weight.why_not, "XNNPACK packs equal codes once")) << weight.name;
    EXPECT_TRUE(contains(named["b.weight"].why_not, named["b.weight"].shares_storage_with));
    EXPECT_TRUE(contains(named["a.bias"].why_not, "it is packed beside a.weight: XNNPACK"));
  }
}

TEST(WeightNames, OtherScalesAreACollisionWhereverNamesAreTheSame) {
  const std::string text = "a.weight\tk\ta.bias\tb1\nb.weight\tk\tb.bias\tb1\n";
  for (const uint32_t group_length : {0U, 32U}) {
    const Named named(text, {{"k", "b1", Dtype::i4, group_length, 100},
                             {"k", "b1", Dtype::i4, group_length, 200}});
    ASSERT_EQ(named.names(), (Names{"a.bias", "a.weight", "b.bias", "b.weight"}));
    for (const ProgramWeight& weight : named.weights)
      EXPECT_TRUE(contains(weight.why_not, "with another scale, bias or use")) << weight.name;
  }
}

// Only packing tells how another node has its codes packed.
TEST(WeightNames, AnotherUseOfTheCodesIsACollisionWithAll) {
  std::vector<ProgramWeight> weights = {weight_of({"k", "b1"}), weight_of({"k", "b2"}),
                                        weight_of({"k", ""})};
  weights[2].node = "XNNConv2d";
  weights[2].why_not = "XNNConv2d reads it";
  const Named named(weights, "a.weight\tk\ta.bias\tb1\nb.weight\tk\tb.bias\tb2\n");
  for (const char* name : {"a.weight", "b.weight"})
    EXPECT_TRUE(contains(named[name].why_not, "packs equal codes once")) << named[name].why_not;
}

TEST(WeightNames, ALineThatCouldMeanSeveralWeightsNamesNone) {
  const Named named("a.weight\tk\nb.weight\tk\n", {{"k", "b1"}, {"k", "b2"}});
  EXPECT_EQ(named.names(), (Names{"a.weight", "b.weight", "xnnpack:k.bias", "xnnpack:k.bias#2"}));
  for (const ProgramWeight& weight : named.weights)
    EXPECT_TRUE(contains(weight.why_not, "does not say which of its weights")) << weight.name;
  // Of three, one is known.
  const Named known("a.weight\tk\ta.bias\tb1\nb.weight\tk\nc.weight\tk\n",
                    {{"k", "b1"}, {"k", "b2"}, {"k", "b3"}});
  EXPECT_EQ(known["a.weight"].why_not, "");
  EXPECT_EQ(known["a.weight"].bias_key, "b1");
  EXPECT_EQ(known["a.bias"].why_not, "");
  for (const char* name : {"b.weight", "c.weight"})
    EXPECT_TRUE(contains(known[name].why_not, "does not say which of its weights"));
}

TEST(WeightNames, OneBiasOfSeveralWeightsIsRefusedWithAllOfThem) {
  const Named named("a.weight\tk1\tbias\tb\nb.weight\tk2\tbias\tb\nc.weight\tk3\tbias\tb\n",
                    {{"k1", "b"}, {"k2", "b"}, {"k3", "b"}});
  for (const char* name : {"bias", "bias#2", "bias#3"}) {
    EXPECT_EQ(named[name].why_not,
              "it is one bias of several weights, with a copy packed beside a.weight and b.weight"
              " and c.weight");
  }
  for (const char* name : {"a.weight", "b.weight", "c.weight"}) EXPECT_EQ(named[name].why_not, "");
  const Named same("a.weight\tk1\ta.weight\tb\n", {{"k1", "b"}});
  EXPECT_EQ(same.names(), (Names{"a.weight", "a.weight#2"}));
  EXPECT_NE(same["a.weight"].why_not, "");
  EXPECT_NE(same["a.weight#2"].why_not, "");
}

TEST(WeightNames, EqualLayersShareWeightAndBias) {
  const Named named("a.weight\tk\ta.bias\tb\nb.weight\tk\tb.bias\tb\n", {{"k", "b", Dtype::i8}});
  ASSERT_EQ(named.names(), (Names{"a.bias", "a.weight", "b.bias", "b.weight"}));
  for (const ProgramWeight& weight : named.weights) EXPECT_EQ(weight.why_not, "") << weight.name;
  EXPECT_EQ(named["a.weight"].shares_storage_with, "b.weight");
  EXPECT_EQ(named["b.weight"].shares_storage_with, "a.weight");
  EXPECT_EQ(named["a.bias"].shares_storage_with, "b.bias");
  EXPECT_EQ(named["b.bias"].shares_storage_with, "a.bias");
}

TEST(WeightNames, WhatElseReadsABiasKeepsItFromBeingSwitched) {
  ProgramWeight weight = weight_of({"k", "b"});
  weight.bias_why_not = "XNNAdd reads it too";
  const Named named({weight}, "a.weight\tk\ta.bias\tb\n");
  EXPECT_EQ(named["a.bias"].why_not, "XNNAdd reads it too");
  EXPECT_EQ(named["a.weight"].why_not, "");
}

TEST(WeightNames, LinesOfAnotherFormAreRefused) {
  for (const char* text :
       {"a.weight\tk\tbias\n", "a.weight\tk\tbias\tb\tmore\n", "a.weight\tk\tbias\t\n",
        "a.weight\t\tbias\tb\n", "\tk\n", "a.weight\n", "a.weight\tk"}) {
    const Bytes bytes = test::make_weights_pte(0, text).bytes;
    const ByteReader reader(bytes.data(), bytes.size());
    auto program = std::move(ProgramSource::over(reader, "memory.pte").value());
    const auto names = read_weight_names(program.get());
    ASSERT_FALSE(names.ok()) << text;
    EXPECT_EQ(names.error().status, Status::BAD_PROGRAM_FILE);
    EXPECT_TRUE(contains(names.error().message, "a line of the names of packed weights"));
  }
}

}  // namespace
}  // namespace shira
