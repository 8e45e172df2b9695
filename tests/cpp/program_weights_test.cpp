// Tests of the reader of packed and quantized weights: what it lists, and what it refuses.
// SPDX-License-Identifier: Apache-2.0
#include "attach/program_weights.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "attach/weight_data.h"
#include "flatbuffer_victim.h"
#include "weights_builder.h"

namespace shira {
namespace {

using test::Bytes;
using test::FlatbufferVictim;
using test::make_weights_pte;
using test::WeightsPte;

Result<ProgramWeights> parse(const Bytes& bytes) {
  return parse_program_weights({ByteReader(bytes.data(), bytes.size())}, {"memory.pte"});
}

const ProgramWeight& find(const ProgramWeights& list, const std::string& name) {
  for (const ProgramWeight& weight : list.weights) {
    if (weight.name == name) return weight;
  }
  ADD_FAILURE() << "no weight " << name;
  static const ProgramWeight none;
  return none;
}

std::vector<std::string> names_of(const ProgramWeights& list) {
  std::vector<std::string> names;
  for (const ProgramWeight& weight : list.weights) names.push_back(weight.name);
  return names;
}

using Names = std::vector<std::string>;
using Dims = std::vector<uint32_t>;

TEST(ProgramWeights, FindsEveryKindInARealProgram) {
  const auto list = read_program_weights(SHIRA_TESTS_DIR "/programs/weights.pte", {});
  ASSERT_TRUE(list.ok()) << list.error().message;
  const ProgramWeights& weights = list.value();
  Names names = names_of(weights);
  ASSERT_EQ(names.size(), 10U);
  EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
  const ProgramWeight& group = find(weights, "group.weight");
  EXPECT_EQ(group.owner, "XnnpackBackend");
  EXPECT_EQ(group.node, "XNNFullyConnected");
  EXPECT_EQ(group.storage, WeightStorage::packed);
  EXPECT_EQ(group.dtype, Dtype::i4);
  EXPECT_EQ(group.dims, (Dims{6, 64}));
  EXPECT_EQ(group.group_length, 32U);
  EXPECT_EQ(group.code_bias, 8U);
  EXPECT_EQ(group.codes.range.size_bytes, 6 * 32U);
  EXPECT_EQ(group.scales.range.size_bytes, 6 * 2 * 2U);
  EXPECT_EQ(group.scale_dtype, Dtype::bf16);
  EXPECT_EQ(group.bias.range.size_bytes, 6 * 4U);
  EXPECT_EQ(group.key.size(), 64U);
  EXPECT_EQ(group.scale_key.substr(0, 6), "scale_");
  EXPECT_EQ(group.methods, (Names{"again", "forward"})) << "shared by two methods, listed once";
  EXPECT_EQ(group.why_not, "");
  const ProgramWeight& bias = find(weights, "xnnpack:" + group.key.substr(0, 16) + ".bias");
  EXPECT_EQ(bias.storage, WeightStorage::packed_bias);
  EXPECT_EQ(bias.beside, "group.weight");
  EXPECT_EQ(bias.dtype, Dtype::f32);
  EXPECT_EQ(bias.dims, (Dims{6}));
  EXPECT_TRUE(bias.codes == group.bias);
  EXPECT_EQ(bias.methods, group.methods);
  EXPECT_EQ(bias.why_not, "");
  const ProgramWeight& channel = find(weights, "channel.weight");
  EXPECT_EQ(channel.dtype, Dtype::i8);
  EXPECT_EQ(channel.group_length, 0U);
  EXPECT_EQ(channel.scale_dtype, Dtype::f32);
  EXPECT_EQ(channel.methods, (Names{"forward"}));
  EXPECT_FALSE(channel.bias);
  const ProgramWeight& head = find(weights, "tables.head");
  EXPECT_EQ(head.owner, "quantized_decomposed::mixed_linear");
  EXPECT_EQ(head.storage, WeightStorage::byte_table);
  EXPECT_EQ(head.dims, (Dims{3, 6}));
  const ProgramWeight& table = find(weights, "tables.codes");
  EXPECT_EQ(table.storage, WeightStorage::nibble_table);
  EXPECT_EQ(table.dims, (Dims{5, 64})) << "codes, not bytes";
  EXPECT_EQ(table.group_length, 32U);
}

TEST(ProgramWeights, WeightsWithoutANameGoByTheirKey) {
  const auto list = read_program_weights(SHIRA_TESTS_DIR "/programs/weights.pte", {});
  ASSERT_TRUE(list.ok());
  const auto plain =
      std::find_if(list.value().weights.begin(), list.value().weights.end(),
                   [](const auto& w) { return w.dtype == Dtype::f32 && w.dims.size() == 2; });
  ASSERT_NE(plain, list.value().weights.end());
  EXPECT_EQ(plain->name, "xnnpack:" + plain->key.substr(0, 16));
  EXPECT_EQ(plain->why_not, "");
  const auto convolution = std::find_if(list.value().weights.begin(), list.value().weights.end(),
                                        [](const auto& w) { return w.dims.size() == 4; });
  ASSERT_NE(convolution, list.value().weights.end());
  EXPECT_NE(convolution->why_not.find("fully connected"), std::string::npos);
}

TEST(ProgramWeights, EqualCodesWithOtherScalesAreKeptApartAndRefused) {
  const auto list = read_program_weights(SHIRA_TESTS_DIR "/programs/weights.pte", {});
  ASSERT_TRUE(list.ok());
  const ProgramWeight& twin = find(list.value(), "twin.weight");
  const ProgramWeight& twice = find(list.value(), "twice.weight");
  EXPECT_EQ(twin.key, twice.key);
  EXPECT_FALSE(twin.scales == twice.scales);
  for (const ProgramWeight* weight : {&twin, &twice}) {
    EXPECT_NE(weight->why_not.find("packs equal codes once"), std::string::npos);
    EXPECT_NE(weight->shares_storage_with, "");
  }
}

TEST(ProgramWeights, ReadsAProgramMadeByHand) {
  const WeightsPte file = make_weights_pte();
  const auto list = parse(file.bytes);
  ASSERT_TRUE(list.ok()) << list.error().message;
  ASSERT_EQ(names_of(list.value()), (Names{"fc.weight", "table", test::kFcBias}));
  const ProgramWeight& layer = find(list.value(), "fc.weight");
  EXPECT_EQ(layer.why_not, "");
  EXPECT_EQ(layer.dims, (Dims{2, 32}));
  EXPECT_EQ(layer.bias.range.size_bytes, 8U);
  const ProgramWeight& table = find(list.value(), "table");
  EXPECT_EQ(table.why_not, "");
  EXPECT_EQ(table.dims, (Dims{4, 16}));
  EXPECT_EQ(table.group_length, 8U);

  const ByteReader whole(file.bytes.data(), file.bytes.size());
  const auto matrix = view_weight(layer, {whole});
  ASSERT_TRUE(matrix.ok());
  EXPECT_EQ(matrix.value().codes, file.bytes.data() + layer.codes.range.offset_bytes);
  EXPECT_EQ(matrix.value().row_count, 2U);
  EXPECT_EQ(matrix.value().column_count, 32U);
  EXPECT_EQ(matrix.value().group_length, 32U);
  EXPECT_NE(matrix.value().bias, nullptr);
  const auto cut = view_weight(layer, {ByteReader(file.bytes.data(), file.bytes.size() - 1)});
  ASSERT_FALSE(cut.ok());
  EXPECT_EQ(cut.error().status, Status::TRUNCATED);
  EXPECT_EQ(cut.error().tensor, "fc.weight");
}

TEST(ProgramWeights, ValuesThatAlsoLieOutsideOfTheDelegateAreRefused) {
  WeightsPte file = make_weights_pte();
  const auto before = parse(file.bytes);
  ASSERT_TRUE(before.ok());
  const auto place = [&](const char* name) {
    return file.bytes.begin() +
           static_cast<std::ptrdiff_t>(find(before.value(), name).codes.range.offset_bytes);
  };
  std::copy_n(place("table"), 32, place("fc.weight"));
  auto list = parse(file.bytes);
  ASSERT_TRUE(list.ok()) << list.error().message;
  EXPECT_EQ(find(list.value(), "fc.weight").why_not, "") << "two names are two weights";
  EXPECT_EQ(find(list.value(), "table").why_not, "");

  // Without the name nobody knows.
  const std::string line = "fc.weight\t" + test::kCodesKey;
  const auto text = std::search(file.bytes.begin(), file.bytes.end(), line.begin(), line.end());
  ASSERT_NE(text, file.bytes.end());
  text[static_cast<std::ptrdiff_t>(line.size()) - 1] = 'x';
  list = parse(file.bytes);
  ASSERT_TRUE(list.ok()) << list.error().message;
  EXPECT_NE(find(list.value(), "xnnpack:aaaaaaaaaaaaaaaa").why_not.find("as table"),
            std::string::npos);
  EXPECT_NE(find(list.value(), "table").why_not.find("as xnnpack:aaaaaaaaaaaaaaaa"),
            std::string::npos);
  EXPECT_TRUE(std::is_sorted(list.value().weights.begin(), list.value().weights.end(),
                             [](const auto& a, const auto& b) { return a.name < b.name; }));
  place("table")[31] = static_cast<uint8_t>(place("table")[31] ^ 1U);
  list = parse(file.bytes);
  ASSERT_TRUE(list.ok());
  EXPECT_EQ(find(list.value(), "table").why_not, "") << "one bit is another";
}

TEST(ProgramWeights, CodesComeOnePerByte) {
  const WeightsPte file = make_weights_pte();
  const test::TemporaryFile disk(file.bytes);
  const auto list = read_program_weights(disk.path(), {});
  ASSERT_TRUE(list.ok());
  for (const bool is_table : {false, true}) {
    const ProgramWeight& weight = find(list.value(), is_table ? "table" : "fc.weight");
    const auto codes = read_weight_codes(weight, list.value().paths);
    ASSERT_TRUE(codes.ok());
    ASSERT_EQ(codes.value().size(), uint64_t{weight.dims[0]} * weight.dims[1]);
    for (size_t i = 0; i < codes.value().size(); ++i) {
      const uint8_t byte = file.bytes[weight.codes.range.offset_bytes + i / 2];
      const bool is_high = (i % 2 == 0) == is_table;
      EXPECT_EQ(static_cast<int8_t>(codes.value()[i]), (is_high ? byte >> 4 : byte & 15) - 8);
    }
  }
  const ProgramWeight& layer = find(list.value(), "fc.weight");
  const auto scales =
      read_weight_floats(layer, layer.scales, layer.scale_dtype, list.value().paths);
  ASSERT_TRUE(scales.ok());
  EXPECT_EQ(scales.value().size(), 2U);
}

TEST(ProgramWeights, DataMayLieInADataFile) {
  WeightsPte file = make_weights_pte();
  FlatbufferVictim victim(file.bytes);
  // The key of the codes is another one in the .pte; the .ptd has it.
  const size_t entry = victim.item(victim.get<uint32_t>(0), 7, 0);
  victim.put<char>(victim.child(entry, 0) + 4, 'x');
  auto list = parse(victim.bytes());
  ASSERT_TRUE(list.ok());
  EXPECT_NE(find(list.value(), "fc.weight").why_not.find("in none of the files"),
            std::string::npos);
  test::FlatTensors content;
  content.constants = {{test::kCodesKey, 0, {32}, {}, 0}};
  content.segments = {{0, 40}};
  const Bytes data = make_ptd(content);
  list = parse_program_weights({ByteReader(victim.bytes().data(), victim.bytes().size()),
                                ByteReader(data.data(), data.size())},
                               {"memory.pte", "memory.ptd"});
  ASSERT_TRUE(list.ok()) << list.error().message;
  const ProgramWeight& layer = find(list.value(), "fc.weight");
  EXPECT_EQ(layer.why_not, "");
  EXPECT_EQ(layer.codes.file_index, 1U);
  EXPECT_EQ(layer.codes.range.size_bytes, 32U) << "not the padding behind them";
  EXPECT_EQ(layer.scales.file_index, 0U);
}

TEST(ProgramWeights, NodesOfUnknownKindsMayReadAnything) {
  for (const uint8_t kind : {uint8_t{17}, uint8_t{48}}) {
    const auto list = parse(make_weights_pte(kind).bytes);
    ASSERT_TRUE(list.ok()) << list.error().message;
    const std::string& why_not = find(list.value(), "fc.weight").why_not;
    EXPECT_EQ(why_not.find("unknown kind 48") != std::string::npos, kind == 48) << why_not;
  }
}

TEST(ProgramWeights, ABiasThatAnotherNodeReadsIsSaidToBe) {
  const WeightsPte file = make_weights_pte(1);
  FlatbufferVictim victim(file.bytes);
  EXPECT_EQ(find(parse(victim.bytes()).value(), test::kFcBias).why_not, "");
  const size_t graph = victim.follow(file.graph);
  victim.put<uint32_t>(victim.field(victim.child(victim.item(graph, 1, 1), 1), 0), 2);
  const auto list = parse(victim.bytes());
  ASSERT_TRUE(list.ok()) << list.error().message;
  EXPECT_EQ(find(list.value(), "fc.weight").why_not, "");
  EXPECT_EQ(find(list.value(), test::kFcBias).why_not, "XNNAdd reads it too");
}

TEST(ProgramWeights, ValuesMayStandInAnyOrder) {
  const WeightsPte file = make_weights_pte();
  FlatbufferVictim victim(file.bytes);
  const size_t graph = victim.follow(file.graph);
  const size_t layer = victim.child(victim.item(graph, 1, 0), 1);
  for (const auto& [index, id] : {std::pair(0U, 3U), std::pair(3U, 0U)}) {
    const size_t tensor = victim.child(victim.item(graph, 2, index), 1);
    victim.put<uint32_t>(victim.field(tensor, 6), id);
    victim.put<uint32_t>(victim.field(layer, index), id);
  }
  const auto list = parse(victim.bytes());
  ASSERT_TRUE(list.ok()) << list.error().message;
  EXPECT_EQ(find(list.value(), "fc.weight").why_not, "");
}

TEST(ProgramWeights, FilesOfTheWrongKindAreRefused) {
  const Bytes pte = make_weights_pte().bytes;
  test::FlatTensors content;
  const Bytes ptd = make_ptd(content);
  const ByteReader program(pte.data(), pte.size());
  const ByteReader data(ptd.data(), ptd.size());
  for (const auto& files : {std::vector{data}, std::vector{program, program}}) {
    const auto list = parse_program_weights(files, {"a", "b"});
    ASSERT_FALSE(list.ok());
    EXPECT_EQ(list.error().status, Status::BAD_PROGRAM_FILE);
    EXPECT_EQ(list.error().offset_bytes, 4U);
  }
  EXPECT_FALSE(read_program_weights("/nonexistent.pte", {}).ok());
}

}  // namespace
}  // namespace shira
