// Tests of the reader of packed and quantized weights: what it lists, and what it refuses.
// SPDX-License-Identifier: Apache-2.0
#include "attach/program_weights.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <random>
#include <string>
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
  ASSERT_EQ(names.size(), 8U);
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
  const auto plain = std::find_if(list.value().weights.begin(), list.value().weights.end(),
                                  [](const auto& w) { return w.dtype == Dtype::f32; });
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
  ASSERT_EQ(names_of(list.value()), (Names{"fc.weight", "table"}));
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
  content.segments = {{0, 32}};
  const Bytes data = make_ptd(content);
  list = parse_program_weights({ByteReader(victim.bytes().data(), victim.bytes().size()),
                                ByteReader(data.data(), data.size())},
                               {"memory.pte", "memory.ptd"});
  ASSERT_TRUE(list.ok()) << list.error().message;
  const ProgramWeight& layer = find(list.value(), "fc.weight");
  EXPECT_EQ(layer.why_not, "");
  EXPECT_EQ(layer.codes.file_index, 1U);
  EXPECT_EQ(layer.scales.file_index, 0U);
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

/// The program made by hand, with places to damage.
class Victim : public FlatbufferVictim {
 public:
  explicit Victim(const WeightsPte& file) : FlatbufferVictim(file.bytes), file_(file) {}

  size_t root() const { return get<uint32_t>(0); }
  size_t plan(size_t i = 0) const { return item(root(), 1, i); }
  size_t chain() const { return item(plan(), 5, 0); }
  size_t call(size_t i = 0) const { return child(item(chain(), 2, i), 1); }
  size_t tensor(size_t i = 0) const { return child(item(plan(), 2, i), 1); }
  size_t processed() const { return child(item(plan(), 7, 0), 1); }
  size_t named(size_t i) const { return item(root(), 7, i); }
  size_t segment(size_t i) const { return item(root(), 4, i); }
  size_t names_value() const { return item(plan(1), 2, 0); }
  size_t payload() const { return file_.payload; }
  size_t graph() const { return follow(file_.graph); }
  size_t node() const { return item(graph(), 1, 0); }
  size_t layer() const { return child(node(), 1); }
  size_t value(size_t i) const { return item(graph(), 2, i); }
  size_t filter() const { return child(child(value(1), 1), 0); }
  size_t groups() const { return child(child(value(1), 1), 2); }
  size_t bias() const { return child(value(2), 1); }
  size_t data(size_t i) const { return item(graph(), 8, i); }

 private:
  const WeightsPte& file_;
};

/// What must come of a damage: nothing (`what` is empty), a weight that cannot be switched, or a
/// refusal of the file; and words of the message.
struct Case {
  const char* damage;
  const char* weight;  // null: the file is refused
  const char* words;
  std::function<void(Victim*)> apply;
};

constexpr uint32_t kMax32 = UINT32_MAX;
constexpr uint64_t kMax64 = UINT64_MAX;

const std::vector<Case>& catalogue() {
  using V = Victim;
  static const std::vector<Case> kCases = {
      // The delegate
      {"another delegate", "QnnpackBackend", "only what XNNPACK packs",
       [](V* v) { v->put<char>(v->child(v->item(v->plan(), 7, 0), 0) + 4, 'Q'); }},
      {"no such segment", nullptr, "payload",
       [](V* v) { v->put<uint32_t>(v->field(v->processed(), 1), 5); }},
      {"no such inline data", nullptr, "payload",
       [](V* v) { v->put<uint8_t>(v->field(v->processed(), 0), 0); }},
      {"an unknown payload", "XnnpackBackend", "unknown format",
       [](V* v) { v->put<char>(v->payload() + 4, 'Y'); }},
      {"a short header", nullptr, "header", [](V* v) { v->put<uint16_t>(v->payload() + 8, 29); }},
      {"a graph behind the payload", nullptr, "header",
       [](V* v) { v->put<uint32_t>(v->payload() + 14, v->get<uint32_t>(v->payload() + 14) + 1); }},
      {"a graph of 2^32 - 1 bytes", nullptr, "header",
       [](V* v) { v->put(v->payload() + 14, kMax32); }},
      {"constants that wrap around", nullptr, "header",
       [](V* v) { v->put(v->payload() + 22, kMax64); }},
      {"an empty graph", nullptr, "flatbuffer",
       [](V* v) { v->put<uint32_t>(v->payload() + 14, 0); }},

      // Nodes and values
      {"a node of an unknown kind", "fc.weight", "unknown kind",
       [](V* v) { v->put<uint8_t>(v->field(v->node(), 0), 200); }},
      {"a node that only adds", "fc.weight", "XNNAdd reads it",
       [](V* v) { v->put<uint8_t>(v->field(v->node(), 0), 1); }},
      {"a filter that is also the input", "fc.weight", "reads it too",
       [](V* v) { v->put<uint32_t>(v->field(v->layer(), 0), 1); }},
      {"a transposed filter", "fc.weight", "transposed",
       [](V* v) { v->put<uint32_t>(v->field(v->layer(), 4), 1); }},
      {"an input of f32", "fc.weight", "multiplied by fp32",
       [](V* v) { v->put<int16_t>(v->field(v->child(v->value(0), 1), 0), 1); }},
      {"an input that is not there", "fc.weight", "multiplied by invalid",
       [](V* v) { v->put<uint32_t>(v->field(v->layer(), 0), 77); }},
      {"two values of one number", nullptr, "two values",
       [](V* v) { v->put<uint32_t>(v->field(v->bias(), 6), 1); }},
      {"a value of an unknown kind", nullptr, "unknown kind",
       [](V* v) { v->put<uint8_t>(v->field(v->value(0), 0), 3); }},
      {"a filter of bf16", "fc.weight", "bf16",
       [](V* v) { v->put<int16_t>(v->field(v->filter(), 0), 14); }},
      {"a datatype that nobody knows", "fc.weight", "unknown type",
       [](V* v) { v->put<int16_t>(v->field(v->filter(), 0), -1); }},
      {"a filter of rank 1", "fc.weight", "no matrix",
       [](V* v) { v->put<uint32_t>(v->child(v->filter(), 2), 1); }},
      {"a filter without rows", "fc.weight", "no matrix",
       [](V* v) { v->put<uint32_t>(v->child(v->filter(), 2) + 4, 0); }},
      {"a rank of 2^30", nullptr, "runs past",
       [](V* v) { v->put<uint32_t>(v->child(v->filter(), 2), 1U << 30); }},
      {"2^32 - 1 rows", "fc.weight", "2^32 - 1",
       [](V* v) { v->put(v->child(v->filter(), 2) + 4, kMax32); }},
      {"one row more than there is data for", nullptr, "has room for",
       [](V* v) { v->put<uint32_t>(v->child(v->filter(), 2) + 4, 3); }},

      // Scales and biases
      {"groups of 0", "fc.weight", "groups of 0",
       [](V* v) { v->put<int32_t>(v->field(v->groups(), 2), 0); }},
      {"groups of -32", "fc.weight", "groups of -32",
       [](V* v) { v->put<int32_t>(v->field(v->groups(), 2), -32); }},
      {"groups that do not divide", "fc.weight", "do not divide",
       [](V* v) { v->put<int32_t>(v->field(v->groups(), 2), 24); }},
      {"groups that need more scales", nullptr, "has room for",
       [](V* v) { v->put<int32_t>(v->field(v->groups(), 2), 16); }},
      {"scales by columns", "fc.weight", "not by rows",
       [](V* v) { v->put<int32_t>(v->field(v->groups(), 1), 1); }},
      {"one scale for all", "fc.weight", "scales of kind 2",
       [](V* v) { v->put<uint8_t>(v->field(v->child(v->value(1), 1), 1), 2); }},
      {"scales inside of the graph", "fc.weight", "old exporters",
       [](V* v) { v->put<uint32_t>(v->field(v->groups(), 4), 0); }},
      {"no such constant", nullptr, "no constant 4",
       [](V* v) { v->put<uint32_t>(v->field(v->groups(), 4), 4); }},
      {"a filter that is no constant", nullptr, "no constant 4294967295",
       [](V* v) { v->put(v->field(v->filter(), 3), kMax32); }},
      {"a bias that is computed", "fc.weight", "bias is not constant",
       [](V* v) { v->put<uint32_t>(v->field(v->layer(), 2), 3); }},
      {"a bias of integers", "fc.weight", "bias is qint32",
       [](V* v) { v->put<int16_t>(v->field(v->bias(), 0), 5); }},
      {"a bias of another length", "fc.weight", "one number for each row",
       [](V* v) { v->put<uint32_t>(v->child(v->bias(), 2) + 4, 3); }},

      // Data
      {"a key that nothing has", "fc.weight", "none of the files",
       [](V* v) { v->put<char>(v->child(v->named(0), 0) + 5, 'z'); }},
      {"data in no segment", nullptr, "no segment 5",
       [](V* v) { v->put<uint32_t>(v->field(v->named(1), 1), 5); }},
      {"data without a name, outside of the payload", nullptr, "lies outside",
       [](V* v) { v->put<uint32_t>(v->child(v->data(1), 2), 0); }},
      {"a segment behind the end", nullptr, "declares",
       [](V* v) { v->put<uint64_t>(v->field(v->segment(4), 1), 9); }},

      // Names
      {"names that are not a string", nullptr, "not a string",
       [](V* v) { v->put<uint8_t>(v->field(v->names_value(), 0), 2); }},
      {"names without a value", nullptr, "no value",
       [](V* v) { v->put<uint32_t>(v->child(v->plan(1), 4), 0); }},
      {"names in a value that is not there", nullptr, "no value",
       [](V* v) { v->put<uint32_t>(v->child(v->plan(1), 4) + 4, 1); }},
      {"a line without a tab", nullptr, "a line of the names",
       [](V* v) { v->put<char>(v->child(v->child(v->names_value(), 1), 0) + 4 + 9, ' '); }},
      {"a line that does not end", nullptr, "a line of the names",
       [](V* v) { v->put<char>(v->child(v->child(v->names_value(), 1), 0) + 4 + 74, ' '); }},

      // Tables of codes
      {"another operator", nullptr, "",  // the table is not a weight then
       [](V* v) { v->put<char>(v->child(v->item(v->plan(), 6, 0), 0) + 4, 'Q'); }},
      {"an operator that is not there", nullptr, "no operator 1",
       [](V* v) { v->put<uint32_t>(v->field(v->call(), 0), 1); }},
      {"a value that is not there", nullptr, "no value 3",
       [](V* v) { v->put<uint32_t>(v->child(v->call(), 1) + 4, 3); }},
      {"a table that the delegate reads too", "table", "a delegate reads it too",
       [](V* v) { v->put<uint32_t>(v->child(v->call(1), 1) + 4, 0); }},
      {"signed bytes", "table", "signed",
       [](V* v) { v->put<uint8_t>(v->field(v->tensor(), 0), 1); }},
      {"more rows than there are bytes", nullptr, "has room for",
       [](V* v) {
         v->put<int32_t>(v->child(v->tensor(), 2) + 4, 9);
         v->put<int32_t>(v->child(v->tensor(1), 2) + 4, 9);
       }},
      {"-1 rows", "table", "no matrix",
       [](V* v) { v->put<int32_t>(v->child(v->tensor(), 2) + 4, -1); }},
      {"2^31 - 1 rows and columns", "table", "2^32 - 1",
       [](V* v) {
         v->put<int32_t>(v->child(v->tensor(), 2) + 4, INT32_MAX);
         v->put<int32_t>(v->child(v->tensor(), 2) + 8, INT32_MAX);
       }},
      {"the columns first", "table", "row-major",
       [](V* v) { v->put<uint8_t>(v->child(v->tensor(), 3) + 4, 1); }},
      {"scales of another count", "table", "do not fit",
       [](V* v) { v->put<int32_t>(v->child(v->tensor(1), 2) + 4, 3); }},
      {"scales of int32", "table", "no float constants",
       [](V* v) { v->put<uint8_t>(v->field(v->tensor(1), 0), 3); }},
      {"more scales than bytes", "table", "no float constants",
       [](V* v) { v->put<int32_t>(v->child(v->tensor(1), 2) + 8, 4); }},
      {"zero points that are codes", "table", "zero points",
       [](V* v) { v->put<uint32_t>(v->child(v->call(), 1) + 4 + 8, 0); }},
      {"a constant that is not there", nullptr, "no constant 3",
       [](V* v) { v->put<uint32_t>(v->field(v->tensor(), 5), 3); }},
  };
  return kCases;
}

class DamagedWeights : public testing::TestWithParam<Case> {};

TEST_P(DamagedWeights, AreRefusedWithAReason) {
  const Case& test_case = GetParam();
  const WeightsPte file = make_weights_pte();
  Victim victim(file);
  test_case.apply(&victim);
  const auto list = parse(victim.bytes());
  if (test_case.weight != nullptr) {
    ASSERT_TRUE(list.ok()) << list.error().message;
    EXPECT_NE(find(list.value(), test_case.weight).why_not.find(test_case.words), std::string::npos)
        << find(list.value(), test_case.weight).why_not;
  } else if (*test_case.words == '\0') {
    ASSERT_TRUE(list.ok()) << list.error().message;
    EXPECT_EQ(names_of(list.value()), (Names{"fc.weight"}));
  } else {
    ASSERT_FALSE(list.ok());
    EXPECT_TRUE(list.error().status == Status::BAD_PROGRAM_FILE ||
                list.error().status == Status::TRUNCATED);
    EXPECT_EQ(list.error().file, "memory.pte");
    EXPECT_LT(list.error().offset_bytes, victim.bytes().size() + 1);
    EXPECT_NE(list.error().message.find(test_case.words), std::string::npos)
        << list.error().message;
  }
}

INSTANTIATE_TEST_SUITE_P(Catalogue, DamagedWeights, testing::ValuesIn(catalogue()),
                         [](const auto& info) {
                           std::string name = std::to_string(info.index) + "_";
                           for (const char* c = info.param.damage; *c != '\0'; ++c)
                             name += isalnum(*c) != 0 ? *c : '_';
                           return name;
                         });

/// Whatever the bytes: an answer, and every range inside of the file.
void expect_harmless(const Bytes& bytes) {
  const auto list = parse(bytes);
  if (!list.ok()) {
    ASSERT_TRUE(list.error().status == Status::BAD_PROGRAM_FILE ||
                list.error().status == Status::TRUNCATED)
        << list.error().message;
    return;
  }
  for (const ProgramWeight& weight : list.value().weights) {
    for (const WeightBytes* part :
         {&weight.codes, &weight.scales, &weight.zero_points, &weight.bias}) {
      ASSERT_LE(part->range.offset_bytes, bytes.size());
      ASSERT_LE(part->range.size_bytes, bytes.size() - part->range.offset_bytes);
    }
    if (!weight.why_not.empty()) continue;
    ASSERT_TRUE(weight.dtype.has_value());
    ASSERT_EQ(weight.dims.size(), 2U);
    ASSERT_TRUE(weight.codes);
  }
}

TEST(HostileWeights, EveryTruncationIsHarmless) {
  const Bytes whole = make_weights_pte().bytes;
  for (size_t size = 0; size < whole.size(); ++size) {
    const Bytes cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
    ASSERT_FALSE(parse(cut).ok()) << size;
  }
}

TEST(HostileWeights, EveryFlippedBitIsHarmless) {
  Bytes bytes = make_weights_pte().bytes;
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (unsigned bit = 0; bit < 8; ++bit) {
      bytes[i] ^= static_cast<uint8_t>(1U << bit);
      expect_harmless(bytes);
      bytes[i] ^= static_cast<uint8_t>(1U << bit);
    }
  }
}

TEST(HostileWeights, RandomDamageIsHarmless) {
  const Bytes whole = make_weights_pte().bytes;
  std::mt19937 random(20261122);
  for (int round = 0; round < 20000; ++round) {
    Bytes bytes = whole;
    for (unsigned i = random() % 8 + 1; i > 0; --i) {
      const uint8_t values[] = {0, 1, 2, 4, 5, 127, 128, 255, static_cast<uint8_t>(random())};
      bytes[random() % bytes.size()] = values[random() % std::size(values)];
    }
    expect_harmless(bytes);
  }
}

}  // namespace
}  // namespace shira
