// Tests of finding packed weights: every reason not to touch one, over what ExecuTorch has packed.
// SPDX-License-Identifier: Apache-2.0
#include "executorch/packed_weights.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "packed_cache_builder.h"
#include "packed_fixtures.h"
#include "runtime/program.h"
#include "temporary_folder.h"

namespace shira {
namespace {

using test::Bytes;
using test::PackedFixture;

const PackedFixture& fixture_named(const std::string& name) {
  for (const PackedFixture& fixture : test::packed_fixtures())
    if (fixture.name == name) return fixture;
  std::abort();
}

/// A program of one weight, "layer.weight": its file, and the cache that it was packed into.
class Model {
 public:
  explicit Model(const std::string& kind) : fixture(fixture_named(kind)) {
    const Bytes& packed = fixture.targets.begin()->second.base;
    ProgramWeight weight;
    weight.name = "layer.weight";
    weight.owner = "XnnpackBackend";
    weight.storage = WeightStorage::packed;
    weight.dtype = fixture.dtype;
    weight.dims = {fixture.row_count, fixture.column_count};
    weight.group_length = fixture.group_length;
    weight.code_bias = fixture.dtype == Dtype::i4 ? 8 : 0;
    weight.scale_dtype = fixture.group_length == 0 ? Dtype::f32 : Dtype::bf16;
    weight.codes = append(fixture.codes);
    weight.scales = append(fixture.scales);
    weight.bias = append(fixture.bias);
    weight.key = "codes";
    weight.bias_key = "bias";
    weight.methods = {"forward"};
    weights.weights = {weight};
    const bool is_named_by_bias = is_float(fixture.dtype) || fixture.group_length != 0;
    input.data_bytes = (packed.size() + 4095) / 4096 * 4096;
    input.entries = {{is_named_by_bias ? "codesbias" : "codes", 0, packed.size()}};
    content = packed;
  }

  WeightBytes append(const Bytes& bytes) {
    const WeightBytes place{0, {file.size(), bytes.size()}};
    file.insert(file.end(), bytes.begin(), bytes.end());
    return place;
  }

  PackedWeights find(const std::vector<std::string>& methods = {"forward"}) {
    cache = std::make_unique<PackedCache>(std::move(PackedCache::make().value()));
    Bytes bytes = test::build_cache(input);
    std::copy(content.begin(), content.end(), bytes.begin());
    EXPECT_EQ(write(cache->descriptor(), bytes.data(), bytes.size()),
              static_cast<ssize_t>(bytes.size()));
    const test::TemporaryFolder folder;
    const std::string path = folder / "model.pte";
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(file.data()),
               static_cast<std::streamsize>(file.size()));
    Result<std::shared_ptr<PrivateMapping>> mapping = PrivateMapping::map(path);
    Result<PackedWeights> found = find_packed_weights(*cache, weights, {mapping.value()}, methods);
    EXPECT_TRUE(found.ok()) << found.error().message;
    return std::move(found.value());
  }

  /// The reason why the weight of this name is left alone; empty when it is a tensor.
  std::string reason(const std::string& name = "layer.weight",
                     const std::vector<std::string>& methods = {"forward"}) {
    PackedWeights found = find(methods);
    EXPECT_EQ(found.specs.size() + found.unpatchable.size(), weights.weights.size());
    for (const TensorSpec& spec : found.specs)
      if (spec.name == name) return {};
    return found.unpatchable[name];
  }

  ProgramWeight& weight() { return weights.weights.front(); }

  const PackedFixture& fixture;
  ProgramWeights weights;
  Bytes file{'h', 'e', 'a', 'd'};
  test::CacheInput input;
  Bytes content;  // of the cache, from its beginning
  std::unique_ptr<PackedCache> cache;
};

/// The same program, which calls the bias "layer.bias".
void add_bias(Model* model) {
  ProgramWeight bias;
  bias.name = "layer.bias";
  bias.owner = "XnnpackBackend";
  bias.storage = WeightStorage::packed_bias;
  bias.dtype = model->fixture.dtype == Dtype::f16 ? Dtype::f16 : Dtype::f32;
  bias.dims = {model->fixture.row_count};
  bias.codes = model->weight().bias;
  bias.key = "bias";
  bias.methods = {"forward"};
  bias.beside = "layer.weight";
  model->weights.weights.push_back(bias);
}

const char* const kKinds[] = {"int8_channel", "int4_group", "int4_one_group",
                              "int4_channel", "f16",        "f32"};

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(PackedWeights, AreTensorsWithTheProgramsShapes) {
  for (const char* kind : kKinds) {
    Model model(kind);
    PackedWeights found = model.find();
    ASSERT_EQ(found.specs.size(), 1U) << kind << found.unpatchable["layer.weight"];
    const TensorSpec& spec = found.specs[0];
    EXPECT_EQ(spec.name, "layer.weight");
    EXPECT_EQ(spec.dtype, model.fixture.dtype);
    EXPECT_EQ(spec.dims, model.weight().dims);
    EXPECT_EQ(found.index.entries().size(), 1U);
    Bytes live(8 * dtype_bytes(spec.dtype));
    Bytes source(live.size());
    spec.layout->read(0, 8, live.data());
    ASSERT_TRUE(
        spec.layout->read_source(*spec.region, spec.data, 0, source.size(), source.data()).ok());
    EXPECT_EQ(live, source);
  }
}

TEST(PackedWeights, BiasesAreTensorsBesideThem) {
  for (const char* kind : kKinds) {
    Model model(kind);
    add_bias(&model);
    PackedWeights found = model.find();
    ASSERT_EQ(found.specs.size(), 2U) << kind << found.unpatchable["layer.bias"];
    const TensorSpec& bias = found.specs[1];
    EXPECT_EQ(bias.name, "layer.bias");
    EXPECT_EQ(bias.dims, (std::vector<uint32_t>{model.fixture.row_count}));
    Bytes live(model.fixture.bias.size());
    bias.layout->read(0, model.fixture.row_count, live.data());
    EXPECT_EQ(live, model.fixture.bias);
    // Other biases are no longer a change beside the matrix.
    const uint32_t row = 1;
    const float value = 3;
    bias.layout->store(&row, 1, reinterpret_cast<const uint8_t*>(&value));
    EXPECT_TRUE(found.specs[0].layout->check_beside().ok());
  }
}

TEST(PackedWeights, BiasesAreRefusedWithTheirWeights) {
  Model model("int8_channel");
  add_bias(&model);
  model.input.entries.clear();
  EXPECT_TRUE(contains(model.reason("layer.bias"),
                       "it is packed beside layer.weight: XNNPACK has packed it into memory of"));
  Model named("int8_channel");
  add_bias(&named);
  named.weights.weights[1].why_not = "it has a name of two weights";
  EXPECT_EQ(named.reason("layer.bias"), "it has a name of two weights");
  EXPECT_EQ(named.reason("layer.weight"), "");
}

TEST(PackedWeights, WhatIsNotInTheIndexIsInTheHeap) {
  for (const char* kind : kKinds) {
    Model model(kind);
    model.input.entries[0].name = "others";
    EXPECT_TRUE(contains(model.reason(), "this processor has no kernel for " +
                                             std::string(dtype_name(model.fixture.dtype))));
    model.input.entries.clear();
    EXPECT_TRUE(contains(model.reason(), "this processor has no kernel"));
  }
}

TEST(PackedWeights, OtherMethodsHavePackedNothing) {
  Model model("f32");
  EXPECT_EQ(model.reason("layer.weight", {"forward", "other"}), "");
  EXPECT_EQ(model.reason("layer.weight", {"other"}), "none of the methods that use it was loaded");
}

TEST(PackedWeights, ReasonsOfTheProgramAreKept) {
  Model model("f32");
  model.weight().why_not = "two layers disagree";
  EXPECT_EQ(model.reason(), "two layers disagree");
}

// The first byte of each of the base's parts, and one of the packing.
TEST(PackedWeights, OneDifferenceAnywhereIsARefusal) {
  for (const char* kind : kKinds) {
    const std::vector<std::pair<std::string, std::function<uint8_t*(Model&)>>> places = {
        {"code", [](Model& m) { return &m.file[m.weight().codes.range.offset_bytes + 9]; }},
        {"scale", [](Model& m) { return &m.file[m.weight().scales.range.offset_bytes + 2]; }},
        {"bias", [](Model& m) { return &m.file[m.weight().bias.range.offset_bytes + 1]; }},
        {"", [](Model& m) { return &m.content[2]; }},
    };
    for (const auto& [what, place] : places) {
      Model model(kind);
      if (what == "scale" && !model.weight().scales) continue;
      *place(model) ^= 0x10;
      const std::string reason = model.reason();
      EXPECT_TRUE(contains(reason, "in the packed weight, and the program gives"))
          << kind << reason;
      EXPECT_TRUE(contains(reason, what)) << kind << reason;
    }
  }
}

TEST(PackedWeights, EqualWeightsOfTwoLayersAreOneTensorWithTwoNames) {
  Model model("int8_channel");
  model.weights.weights.push_back(model.weight());
  model.weights.weights[1].name = "other.weight";
  const PackedWeights found = model.find();
  ASSERT_EQ(found.specs.size(), 2U);
  EXPECT_EQ(found.specs[0].data, found.specs[1].data);
  Program program;
  ASSERT_TRUE(program.add_tensors(found.specs).ok());
  EXPECT_EQ(program.tensors()[0].shares_storage_with, "other.weight");
  EXPECT_EQ(program.tensors()[1].shares_storage_with, "layer.weight");
}

// What ExecuTorch makes of layers with equal codes: the first one's packing serves both.
TEST(PackedWeights, LayersThatShareAPackingButNotItsScalesAreBothRefused) {
  Model model("int8_channel");
  model.weights.weights.push_back(model.weight());
  model.weights.weights[1].name = "other.weight";
  Bytes scales = model.fixture.scales;
  scales[3] ^= 1;
  model.weights.weights[1].scales = model.append(scales);
  const std::string first = model.reason("layer.weight");
  const std::string other = model.reason("other.weight");
  EXPECT_TRUE(contains(first, "XNNPACK computes 'other.weight' with it, too")) << first;
  EXPECT_TRUE(contains(other, "the packed weight of 'layer.weight' in its place")) << other;
  EXPECT_TRUE(contains(other, "the scale of row 0 is")) << other;
}

TEST(PackedWeights, AMalformedIndexIsAnError) {
  Model model("f32");
  model.input.magic ^= 1;
  const PackedCache cache = std::move(PackedCache::make().value());
  const Bytes bytes = test::build_cache(model.input);
  ASSERT_EQ(write(cache.descriptor(), bytes.data(), bytes.size()),
            static_cast<ssize_t>(bytes.size()));
  EXPECT_EQ(find_packed_weights(cache, model.weights, {}, {"forward"}).error().status,
            Status::BAD_MAGIC);
}

}  // namespace
}  // namespace shira
