// Calibration on what ExecuTorch packs: the layout that is found, and everything that is refused.
// SPDX-License-Identifier: Apache-2.0
#include "packed/calibrate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "packed_builder.h"
#include "packed_fixtures.h"

namespace shira {
namespace {

using test::Bytes;
using test::PackedFixture;

/// What the targets use. A change of ExecuTorch or of a target's CPU would show here.
const std::map<std::string, std::map<std::string, std::string>>& expected_layouts() {
  static const std::map<std::string, std::string> kInGroups = {
      {"x86_avx512_vnni", "xb4 nr=16 kr=8 sr=1"}, {"x86_haswell", "xb4 nr=8 kr=8 sr=1"},
      {"x86_nehalem", "xb4 nr=4 kr=8 sr=1"},      {"arm_cortex_a53", "xb4 nr=16 kr=1 sr=1"},
      {"arm_cortex_a76", "kb4 nr=4 kr=4 sr=1"},   {"arm_cortex_a710", "kb4 nr=4 kr=8 sr=1"},
      {"arm_max", "kb4 nr=4 kr=8 sr=1"},          {"arm_max_no_sme", "kb4 nr=4 kr=8 sr=1"}};
  static const std::map<std::string, std::map<std::string, std::string>> kExpected = {
      {"int8_channel",
       {{"x86_avx512_vnni", "x8 nr=64 kr=4 sr=1"},
        {"x86_haswell", "x8 nr=8 kr=8 sr=1"},
        {"x86_nehalem", "x8 nr=4 kr=8 sr=1"},
        {"arm_cortex_a53", "x8 nr=8 kr=2 sr=4"},
        {"arm_cortex_a76", "k8 nr=4 kr=4 sr=1"},
        {"arm_cortex_a710", "k8 nr=4 kr=8 sr=1"},
        {"arm_max", "k8 nr=32 kr=4 sr=1"},
        {"arm_max_no_sme", "k8 nr=4 kr=8 sr=1"}}},
      {"int4_group", kInGroups},
      {"int4_one_group", kInGroups},
      {"int4_channel",
       {{"x86_avx512_vnni", "xc4 nr=16 kr=8 sr=1"},
        {"x86_haswell", "xc4u nr=8 kr=8 sr=1"},
        {"x86_nehalem", "xc4u nr=4 kr=8 sr=1"},
        {"arm_cortex_a53", "xc4 nr=16 kr=1 sr=1"},
        {"arm_cortex_a76", "kc4 nr=4 kr=4 sr=1"},
        {"arm_cortex_a710", "kc4 nr=8 kr=8 sr=1"},
        {"arm_max", "kc4 nr=32 kr=4 sr=1"},
        {"arm_max_no_sme", "kc4 nr=8 kr=8 sr=1"}}},
      // Without instructions for f16, such weights are not packed into the cache.
      {"f16",
       {{"x86_avx512_vnni", "f16 nr=32 kr=1 sr=1"},
        {"x86_haswell", "f16 nr=16 kr=1 sr=1"},
        {"arm_cortex_a76", "f16 nr=16 kr=1 sr=1"},
        {"arm_cortex_a710", "f16 nr=16 kr=1 sr=1"},
        {"arm_max", "f16 nr=16 kr=2 sr=1"},
        {"arm_max_no_sme", "f16 nr=16 kr=1 sr=1"}}},
      {"f32",
       {{"x86_avx512_vnni", "f32 nr=16 kr=1 sr=1"},
        {"x86_haswell", "f32 nr=8 kr=1 sr=1"},
        {"x86_nehalem", "f32 nr=2 kr=4 sr=1"},
        {"arm_cortex_a53", "f32 nr=2 kr=1 sr=1"},
        {"arm_cortex_a76", "f32 nr=2 kr=1 sr=1"},
        {"arm_cortex_a710", "f32 nr=2 kr=1 sr=1"},
        {"arm_max", "f32 nr=16 kr=1 sr=1"},
        {"arm_max_no_sme", "f32 nr=2 kr=1 sr=1"}}}};
  return kExpected;
}

std::vector<std::tuple<const PackedFixture*, std::string>> all_packs() {
  std::vector<std::tuple<const PackedFixture*, std::string>> packs;
  for (const PackedFixture& fixture : test::packed_fixtures())
    for (const auto& [target, pair] : fixture.targets) packs.emplace_back(&fixture, target);
  return packs;
}

class PackedCalibrateTest
    : public ::testing::TestWithParam<std::tuple<const PackedFixture*, std::string>> {
 protected:
  const PackedFixture& fixture_ = *std::get<0>(GetParam());
  const std::string target_ = std::get<1>(GetParam());
  const Bytes& packed_ = fixture_.targets.at(target_).base;
  BaseMatrix base_ = fixture_.base_matrix();

  PackedLayout layout() const {
    const auto found = calibrate(base_, packed_.data(), packed_.size());
    EXPECT_TRUE(found.ok()) << found.error().message;
    return found.value();
  }

  void expect_refused(const BaseMatrix& base, const Bytes& packed, const std::string& words) {
    const auto refused = calibrate(base, packed.data(), packed.size());
    ASSERT_FALSE(refused.ok()) << words;
    EXPECT_EQ(refused.error().status, Status::BASE_MODIFIED) << refused.error().message;
    EXPECT_EQ(refused.error().tensor, fixture_.name);
    EXPECT_NE(refused.error().message.find(words), std::string::npos) << refused.error().message;
  }
};

INSTANTIATE_TEST_SUITE_P(Packs, PackedCalibrateTest, ::testing::ValuesIn(all_packs()),
                         [](const auto& tested) {
                           return std::get<0>(tested.param)->name + "_" + std::get<1>(tested.param);
                         });

TEST(PackedFixtures, EveryTargetIsThere) {
  for (const PackedFixture& fixture : test::packed_fixtures())
    EXPECT_EQ(fixture.targets.size(), expected_layouts().at(fixture.name).size()) << fixture.name;
  EXPECT_EQ(all_packs().size(), 46U);
}

TEST_P(PackedCalibrateTest, FindsTheLayout) {
  EXPECT_EQ(layout().describe(), expected_layouts().at(fixture_.name).at(target_));
}

TEST_P(PackedCalibrateTest, RefusesAWrongCode) {
  const uint64_t element_bytes = dtype_bytes(base_.dtype);
  for (const uint64_t position : {uint64_t{0}, uint64_t{7} * base_.column_count + 9,
                                  uint64_t{base_.row_count} * base_.column_count - 1}) {
    const bool is_nibble = base_.dtype == Dtype::i4;
    Bytes codes = fixture_.codes;
    codes.at(is_nibble ? position / 2 : position * element_bytes) ^=
        is_nibble && position % 2 != 0 ? 0x10 : 0x01;
    base_.codes = codes.data();
    expect_refused(base_, packed_,
                   "the code in column " + std::to_string(position % base_.column_count) +
                       " of row " + std::to_string(position / base_.column_count) + " is ");
  }
}

TEST_P(PackedCalibrateTest, RefusesAWrongBias) {
  Bytes bias = fixture_.bias;
  bias.at(3 * (bias.size() / base_.row_count)) ^= 1;
  base_.bias = bias.data();
  expect_refused(base_, packed_, "the bias of row 3 is ");
  base_.bias = nullptr;
  expect_refused(base_, packed_, "the bias of row 0 is ");
}

TEST_P(PackedCalibrateTest, RefusesAWrongScale) {
  if (fixture_.scales.empty()) return;
  Bytes scales = fixture_.scales;
  scales.at(scales.size() - scales.size() / base_.row_count) ^= 1;
  base_.scales = scales.data();
  expect_refused(base_, packed_,
                 "the scale of row " + std::to_string(base_.row_count - 1) + " is ");
}

// Two layers with weights W and 2 W have the same codes, and ExecuTorch's cache takes them for one.
TEST_P(PackedCalibrateTest, RefusesThePackingOfAnotherLayerWithTheSameCodes) {
  if (fixture_.scales.empty()) return;
  Bytes scales = fixture_.scales;
  const bool is_bf16 = base_.group_length != 0;
  for (size_t i = is_bf16 ? 0 : 2; i < scales.size(); i += is_bf16 ? 2 : 4) {
    const auto bits = test::get<uint16_t>(scales, i);
    test::put(&scales, i, static_cast<uint16_t>(bits + 0x80));  // the exponent
  }
  base_.scales = scales.data();
  expect_refused(base_, packed_, "the scale of row 0 is ");
}

TEST_P(PackedCalibrateTest, RefusesAWrongSum) {
  const PackedLayout found = layout();
  if (!found.has_sums()) return;
  for (const unsigned bit : {0U, 31U}) {
    Bytes packed = packed_;
    packed.at(found.sum(5) + bit / 8) ^= static_cast<uint8_t>(1U << bit % 8);
    expect_refused(base_, packed, "the sum of row 5 is ");
  }
}

TEST_P(PackedCalibrateTest, RefusesWhatIsPatched) {
  expect_refused(base_, fixture_.targets.at(target_).patched, "the code in column ");
}

TEST_P(PackedCalibrateTest, RefusesAnotherSize) {
  for (const int change : {-64, -1, 64}) {
    Bytes packed = packed_;
    packed.resize(packed.size() + static_cast<size_t>(change));
    const auto refused = calibrate(base_, packed.data(), packed.size());
    ASSERT_FALSE(refused.ok()) << change;
    EXPECT_EQ(refused.error().tensor, fixture_.name);
  }
}

TEST_P(PackedCalibrateTest, RefusesAnotherMatrix) {
  Bytes codes = fixture_.codes;
  std::reverse(codes.begin(), codes.end());
  base_.codes = codes.data();
  const auto refused = calibrate(base_, packed_.data(), packed_.size());
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().status, Status::NOT_SUPPORTED);
  EXPECT_NE(refused.error().message.find("puts its codes where they are"), std::string::npos)
      << refused.error().message;
}

// Every half byte counts but those of padding, whose contents packing leaves open.
TEST_P(PackedCalibrateTest, RefusesEveryChangedByteOfARow) {
  const PackedLayout found = layout();
  std::set<uint64_t> used;  // half bytes
  const auto use = [&](uint64_t offset, uint64_t size_bytes) {
    for (uint64_t i = 0; i < 2 * size_bytes; ++i) EXPECT_TRUE(used.insert(2 * offset + i).second);
  };
  for (uint32_t row = 0; row < base_.row_count; ++row) {
    for (uint32_t column = 0; column < base_.column_count; ++column) {
      const CodePlace place = found.code(row, column);
      if (found.is_nibbles()) {
        EXPECT_TRUE(used.insert(2 * place.offset_bytes + place.shift / 4).second);
      } else {
        use(place.offset_bytes, found.element_bytes());
      }
    }
    use(found.bias(row), found.has_sums() ? 4 : found.element_bytes());
    if (found.has_sums()) use(found.sum(row), 4);
    if (found.has_row_scales()) use(found.row_scale(row), 4);
    if (found.is_grouped())
      for (uint32_t group = 0; group < found.group_count(); ++group)
        use(found.group_scale(row, group), 2);
  }
  ASSERT_LT(*used.rbegin() / 2, packed_.size());
  Bytes packed = packed_;
  for (uint64_t offset = 0; offset < packed.size(); offset += 5) {
    packed[offset] ^= static_cast<uint8_t>(1U << offset % 8);
    const uint64_t half = 2 * offset + offset % 8 / 4;
    EXPECT_EQ(calibrate(base_, packed.data(), packed.size()).ok(), used.count(half) == 0) << offset;
    packed[offset] = packed_[offset];
  }
}

TEST(PackedCalibrate, RefusesWhatDoesNotTellLayoutsApart) {
  for (const char* family : {"x8", "k8", "xb4", "kb4", "xc4", "kc4", "f32", "f16"}) {
    const PackedFamily& of = test::family_named(family);
    const bool grouped = of.fields == std::string("ncb") || of.fields == std::string("cnb");
    const PackedLayout layout(of, {64, 256, 8, 4, 1, grouped ? 32U : 0U});
    const test::BuiltMatrix constant(layout, std::vector<uint32_t>(64 * 256, 0));
    const auto refused =
        calibrate(constant.base_matrix(), constant.packed.data(), constant.packed.size());
    ASSERT_FALSE(refused.ok()) << family;
    EXPECT_EQ(refused.error().status, Status::NOT_SUPPORTED) << refused.error().message;
    EXPECT_NE(refused.error().message.find("do not tell two packings apart"), std::string::npos)
        << refused.error().message;
    EXPECT_EQ(refused.error().tensor, "built");
  }
}

// With nr = 1 KleidiAI's piece length moves no code, but it decides in which order sums are added.
TEST(PackedCalibrate, RefusesLayoutsThatDifferInTheOrderOfSums) {
  const PackedLayout layout(test::family_named("kb4"), {3, 64, 1, 4, 1, 64});
  // One scale per row: no sum is rounded, every order fits.
  const auto exact = test::BuiltMatrix::random(layout);
  const auto refused = calibrate(exact.base_matrix(), exact.packed.data(), exact.packed.size());
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().message.find("do not tell"), std::string::npos);
}

TEST(PackedCalibrate, FindsEveryLayoutThereCouldBe) {
  unsigned count = 0;
  for (const PackedFamily& family : packed_families()) {
    const bool grouped = family.fields == std::string("ncb") || family.fields == std::string("cnb");
    for (uint32_t rows = 1; rows <= PackedLayout::kMaxBlockRows; rows *= 2) {
      for (uint32_t piece = 1; piece <= PackedLayout::kMaxPieceLength; piece *= 2) {
        for (uint32_t rotation = 1; rotation <= family.max_rotation; rotation *= 2) {
          const PackedLayout::Parameters parameters = {
              137, grouped ? 1120U : 1061U, rows, piece, rotation, grouped ? 160U : 0U};
          if (!PackedLayout::is_possible(family, parameters)) continue;
          const auto built = test::BuiltMatrix::random(PackedLayout(family, parameters), ++count);
          const auto found =
              calibrate(built.base_matrix(), built.packed.data(), built.packed.size());
          ASSERT_TRUE(found.ok()) << built.layout.describe() << ": " << found.error().message;
          // A block of one row has its pieces in order, however long they are.
          if (rows == 1 && !grouped) continue;
          EXPECT_EQ(found.value().describe(), built.layout.describe());
        }
      }
    }
  }
  EXPECT_GT(count, 400U);
}

TEST(PackedCalibrate, RefusesImpossibleShapes) {
  BaseMatrix base;
  base.name = "w";
  const uint8_t nothing[64] = {};
  for (const auto& [rows, columns] : std::vector<std::pair<uint32_t, uint32_t>>{
           {0, 4}, {4, 0}, {UINT32_MAX, UINT32_MAX}, {65536, 65536}, {1, UINT32_MAX}}) {
    base.row_count = rows;
    base.column_count = columns;
    const auto refused = calibrate(base, nothing, sizeof(nothing));
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().status, Status::NOT_SUPPORTED);
  }
  base.row_count = 2;
  base.column_count = 48;
  base.dtype = Dtype::i4;
  base.group_length = 36;  // does not divide the columns
  EXPECT_FALSE(calibrate(base, nothing, sizeof(nothing)).ok());
}

}  // namespace
}  // namespace shira
