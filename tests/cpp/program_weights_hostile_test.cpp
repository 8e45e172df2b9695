// Hostile programs with weights: every case of the catalogue, every truncation, every flipped bit.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <functional>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "attach/program_weights.h"
#include "attach/xnn_graph.h"
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

/// What must come of a damage: a weight that cannot be switched, a refusal of the file, or (without
/// words) nothing but that the table is no weight; and words of the message.
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
      {"a delegate without a name", nullptr, "a delegate has no name",
       [](V* v) { v->put<uint32_t>(v->child(v->item(v->plan(), 7, 0), 0), 0); }},
      {"an output that is no value", nullptr, "no value",
       [](V* v) { v->put<int32_t>(v->child(v->plan(1), 4) + 4, -1); }},
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
      {"a line without a key", nullptr, "a line of the names",
       [](V* v) { v->put<char>(v->child(v->child(v->names_value(), 1), 0) + 4 + 10, '\n'); }},
      {"a line of three fields", nullptr, "a line of the names",
       [](V* v) { v->put<char>(v->child(v->child(v->names_value(), 1), 0) + 4 + 30, '\t'); }},
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
      {"-1 rows", nullptr, "impossible shape",
       [](V* v) { v->put<int32_t>(v->child(v->tensor(), 2) + 4, -1); }},
      {"2^31 - 1 rows and columns", nullptr, "has room for",
       [](V* v) {
         v->put<int32_t>(v->child(v->tensor(), 2) + 4, INT32_MAX);
         v->put<int32_t>(v->child(v->tensor(), 2) + 8, INT32_MAX);
       }},
      {"the columns first", "table", "row-major",
       [](V* v) { v->put<uint16_t>(v->child(v->tensor(), 3) + 4, 1); }},
      {"the columns twice", nullptr, "permutation",
       [](V* v) { v->put<uint8_t>(v->child(v->tensor(), 3) + 4, 1); }},
      {"scales of another count", "table", "do not fit",
       [](V* v) { v->put<int32_t>(v->child(v->tensor(1), 2) + 4, 3); }},
      {"scales of int32", "table", "no float constants",
       [](V* v) { v->put<uint8_t>(v->field(v->tensor(1), 0), 3); }},
      {"more scales than bytes", nullptr, "has room for",
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
    const auto& weights = list.value().weights;
    const auto weight = std::find_if(weights.begin(), weights.end(), [&](const auto& each) {
      return each.name == test_case.weight;
    });
    ASSERT_NE(weight, weights.end());
    EXPECT_NE(weight->why_not.find(test_case.words), std::string::npos) << weight->why_not;
  } else if (*test_case.words == '\0') {
    ASSERT_TRUE(list.ok()) << list.error().message;
    ASSERT_EQ(list.value().weights.size(), 2U);  // the layer's
    EXPECT_EQ(list.value().weights[0].name, "fc.weight");
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
    const bool is_table = weight.storage == WeightStorage::byte_table ||
                          weight.storage == WeightStorage::nibble_table;
    if (!weight.why_not.empty() && !is_table) continue;
    ASSERT_TRUE(weight.dtype.has_value());
    ASSERT_EQ(weight.dims.size(), weight.storage == WeightStorage::packed_bias ? 1U : 2U);
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

TEST(HostileWeights, ManyNodesThatAreOneTableAreRefusedEarly) {
  constexpr size_t kCount = 1000000;
  test::FlatWriter w(8);
  const auto root = w.table_at(0, {{1, 4}, {2, 4}, {8, 4}});
  const size_t nodes = w.references_at(root.fields.at(1), kCount);
  const size_t node = w.bytes().size() + 8;
  const auto table = w.table_at(nodes, {{0, 1}, {1, 4}});
  ASSERT_EQ(table.position, node);
  w.put<uint8_t>(table.fields.at(0), 1);
  w.table_at(table.fields.at(1), {{0, 4}});
  for (size_t i = 0; i < kCount; ++i) w.refer_to(nodes + 4 * i, node);
  const ByteReader graph(w.bytes().data(), w.bytes().size());
  const auto weights = read_xnn_graph(graph, {{64, graph.size()}, {}}, "memory.pte");
  ASSERT_FALSE(weights.ok());
  EXPECT_EQ(weights.error().status, Status::BAD_PROGRAM_FILE);
  EXPECT_GE(weights.error().offset_bytes, 64U) << "in the file, not in the graph";
  EXPECT_NE(weights.error().message.find("more entries"), std::string::npos);
}

TEST(HostileWeights, ManyDelegatesOfOnePayloadAreOne) {
  // Several methods, or one several times, that share a payload list its weights once.
  const WeightsPte file = make_weights_pte();
  Victim victim(file);
  const size_t reference = victim.item_reference(victim.root(), 1, 1);
  victim.put(reference, static_cast<uint32_t>(victim.plan() - reference));
  const auto list = parse(victim.bytes());
  ASSERT_TRUE(list.ok()) << list.error().message;
  ASSERT_EQ(list.value().weights.size(), 3U);
  for (const ProgramWeight& weight : list.value().weights) {
    EXPECT_EQ(weight.methods, (std::vector<std::string>{"forward"}));
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
