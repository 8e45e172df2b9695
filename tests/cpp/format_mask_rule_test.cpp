// Mask rules against brute force: rows, columns and diagonals, seeds, the largest magnitudes.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "format/mask_rule.h"
#include "index_encoder.h"

namespace shira {
namespace {

using testing::Bytes;
using testing::positions_of;

constexpr uint64_t kMaxElements = 4294967295;

// --- structured masks

struct Structured {
  uint8_t parts;
  uint32_t columns;
  uint32_t period;
  uint32_t phase;
};

Result<MaskRule> parse(const Structured& mask, uint64_t element_count, uint64_t entry_count) {
  const testing::EncodedIndex encoded{
      testing::encode_structured(mask.parts, mask.columns, mask.period, mask.phase), 1};
  return parse_mask_rule(
      testing::index_stream(IndexCodec::structured, encoded, entry_count, element_count, 0));
}

std::vector<uint32_t> brute_force(const Structured& mask, uint64_t element_count) {
  std::vector<uint32_t> positions;
  for (uint64_t i = 0; i < element_count; ++i) {
    const uint64_t row = i / mask.columns;
    const uint64_t column = i % mask.columns;
    const bool taken = ((mask.parts & 1) != 0 && row % mask.period == mask.phase) ||
                       ((mask.parts & 2) != 0 && column % mask.period == mask.phase) ||
                       ((mask.parts & 4) != 0 && row == column);
    if (taken) positions.push_back(static_cast<uint32_t>(i));
  }
  return positions;
}

void check_list(const IndexList& list, const std::vector<uint32_t>& expected) {
  ASSERT_EQ(positions_of(list), expected);
  EXPECT_EQ(list.entry_count, expected.size());
  EXPECT_NE(list.entries.empty(), list.runs.empty()) << "exactly one of the lists is filled";
  for (size_t r = 1; r < list.runs.size(); ++r) {
    EXPECT_GT(list.runs[r].start, list.runs[r - 1].start + list.runs[r - 1].length)
        << "touching runs are one run";
  }
}

TEST(StructuredMask, EveryRuleOfSmallMatrices) {
  int run_list_count = 0;
  int entry_list_count = 0;
  for (uint8_t parts = 1; parts <= 7; ++parts) {
    for (uint32_t rows = 1; rows <= 7; ++rows) {
      for (uint32_t columns = 1; columns <= 9; ++columns) {
        const uint32_t last_period = parts == 4 ? 1 : 10;
        for (uint32_t period = 1; period <= last_period; ++period) {
          for (uint32_t phase = 0; phase < period; ++phase) {
            const Structured mask{parts, columns, period, phase};
            const uint64_t element_count = uint64_t{rows} * columns;
            const std::vector<uint32_t> expected = brute_force(mask, element_count);
            SCOPED_TRACE(std::to_string(parts) + " rows " + std::to_string(rows) + " columns " +
                         std::to_string(columns) + " period " + std::to_string(period) + " phase " +
                         std::to_string(phase));
            EXPECT_FALSE(parse(mask, element_count, expected.size() + 1).ok());
            if (expected.empty()) continue;
            const auto rule = parse(mask, element_count, expected.size());
            ASSERT_TRUE(rule.ok()) << rule.error().message;
            const auto list = expand_mask(rule.value());
            ASSERT_TRUE(list.ok());
            check_list(list.value(), expected);
            (list.value().is_runs() ? run_list_count : entry_list_count) += 1;
          }
        }
      }
    }
  }
  EXPECT_GT(run_list_count, 500) << "the premise: both forms are met";
  EXPECT_GT(entry_list_count, 500);
}

TEST(StructuredMask, RowsAreRunsAndColumnsAreEntries) {
  const auto list_of = [](const Structured& mask) {
    const uint64_t nnz = brute_force(mask, 64 * 64).size();
    return expand_mask(parse(mask, 64 * 64, nnz).value());
  };
  const auto rows = list_of({MaskRule::kRowPart, 64, 8, 3});
  ASSERT_TRUE(rows.ok());
  EXPECT_EQ(rows.value().runs.size(), 8U);
  const auto columns = list_of({MaskRule::kColumnPart, 64, 8, 3});
  ASSERT_TRUE(columns.ok());
  EXPECT_EQ(columns.value().entries.size(), 512U);
  const auto everything = list_of({MaskRule::kColumnPart, 64, 1, 0});
  ASSERT_TRUE(everything.ok());
  ASSERT_EQ(everything.value().runs.size(), 1U);
  EXPECT_EQ(everything.value().runs[0].length, 64U * 64);
}

TEST(StructuredMask, CountsTheLargestTensor) {
  const uint64_t columns = 65537;
  const uint64_t rows = kMaxElements / columns;
  ASSERT_EQ(rows * columns, kMaxElements);
  for (uint8_t parts = 1; parts <= 7; ++parts) {
    for (const uint32_t period : {1U, 2U, 100U, 65535U, 65536U, 4294967295U}) {
      if (parts == 4 && period != 1) continue;
      const uint32_t phase = std::min(period - 1, 17U);
      uint64_t column_count = 0;
      for (uint64_t c = 0; c < columns; ++c) column_count += c % period == phase ? 1U : 0U;
      uint64_t expected = 0;
      for (uint64_t r = 0; r < rows; ++r) {
        if ((parts & 1) != 0 && r % period == phase) {
          expected += columns;
          continue;
        }
        if ((parts & 2) != 0) expected += column_count;
        const bool diagonal_is_taken = (parts & 2) != 0 && r % period == phase;
        if ((parts & 4) != 0 && !diagonal_is_taken) ++expected;
      }
      const Structured mask{parts, static_cast<uint32_t>(columns), period, phase};
      SCOPED_TRACE(std::to_string(parts) + " period " + std::to_string(period));
      EXPECT_TRUE(parse(mask, kMaxElements, expected).ok());
      EXPECT_FALSE(parse(mask, kMaxElements, expected - 1).ok());
    }
  }
}

TEST(StructuredMask, AllOfTheLargestTensorIsOneRun) {
  for (const uint32_t columns : {1U, 65537U, 4294967295U}) {
    const auto rule = parse({MaskRule::kRowPart, columns, 1, 0}, kMaxElements, kMaxElements);
    ASSERT_TRUE(rule.ok()) << rule.error().message;
    if (columns == 1) continue;  // would be walked row by row
    const auto list = expand_mask(rule.value());
    ASSERT_TRUE(list.ok());
    ASSERT_EQ(list.value().runs.size(), 1U);
    EXPECT_EQ(list.value().runs[0].length, kMaxElements);
  }
}

TEST(StructuredMask, RefusesBadRules) {
  const auto status_of = [](const Structured& mask) {
    const auto rule = parse(mask, 24, 6);
    if (rule.ok()) return Status::OK;
    EXPECT_EQ(rule.error().offset_bytes, 0U) << rule.error().message;
    return rule.error().status;
  };
  EXPECT_EQ(status_of({1, 6, 4, 0}), Status::OK) << "the premise";
  EXPECT_EQ(status_of({4, 6, 1, 0}), Status::BAD_INDEX) << "the diagonal has 4";
  EXPECT_EQ(status_of({0, 6, 4, 0}), Status::BAD_INDEX) << "no part";
  EXPECT_EQ(status_of({9, 6, 4, 0}), Status::BAD_INDEX) << "an unknown part";
  EXPECT_EQ(status_of({1, 0, 4, 0}), Status::BAD_INDEX) << "no columns";
  EXPECT_EQ(status_of({1, 5, 4, 0}), Status::BAD_INDEX) << "columns that do not divide";
  EXPECT_EQ(status_of({1, 48, 4, 0}), Status::BAD_INDEX) << "more columns than elements";
  EXPECT_EQ(status_of({1, 6, 0, 0}), Status::BAD_INDEX) << "period 0";
  EXPECT_EQ(status_of({1, 6, 4, 4}), Status::BAD_INDEX) << "phase as large as the period";
  EXPECT_EQ(status_of({1, 6, 5, 4}), Status::BAD_INDEX) << "no row has the phase";
  EXPECT_FALSE(parse({4, 6, 2, 0}, 24, 4).ok()) << "a diagonal with a period";
  EXPECT_TRUE(parse({4, 6, 1, 0}, 24, 4).ok()) << "the premise";

  for (const size_t reserved : {1U, 2U, 3U}) {
    testing::EncodedIndex encoded{testing::encode_structured(1, 6, 4, 0), 1};
    encoded.stream[reserved] = 1;
    const auto rule =
        parse_mask_rule(testing::index_stream(IndexCodec::structured, encoded, 6, 24, 0));
    ASSERT_FALSE(rule.ok());
    EXPECT_EQ(rule.error().status, Status::BAD_INDEX);
    EXPECT_EQ(rule.error().offset_bytes, 0U);
  }
}

// --- random masks

Result<MaskRule> parse_random(uint64_t seed, uint32_t unit_count, uint64_t element_count,
                              uint32_t block_length) {
  const testing::EncodedIndex encoded{testing::encode_seed(seed), unit_count};
  return parse_mask_rule(testing::index_stream(IndexCodec::random, encoded,
                                               uint64_t{unit_count} * block_length, element_count,
                                               block_length));
}

/// Output number `i` of SplitMix64, as the formula of the specification says.
uint64_t split_mix(uint64_t seed, uint64_t i) {
  uint64_t z = seed + (i + 1) * 0x9E3779B97F4A7C15U;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
  return z ^ (z >> 31);
}

std::vector<uint32_t> naive_random(uint64_t seed, uint64_t n, uint64_t element_count,
                                   uint64_t block_length) {
  const uint64_t block_count = element_count / block_length;
  std::vector<uint32_t> positions;
  for (uint64_t i = 0; i < n; ++i) {
    const uint64_t begin = i * block_count / n;
    const uint64_t end = (i + 1) * block_count / n;
    const uint64_t block = begin + (((split_mix(seed, i) >> 32) * (end - begin)) >> 32);
    for (uint64_t j = 0; j < block_length; ++j) {
      positions.push_back(static_cast<uint32_t>(block * block_length + j));
    }
  }
  return positions;
}

TEST(RandomMask, TheGeneratorIsSplitMix64) {
  // The first outputs for this seed, as published with implementations of the generator.
  EXPECT_EQ(split_mix(1234567, 0), 6457827717110365317U);
  EXPECT_EQ(split_mix(1234567, 1), 3203168211198807973U);
  EXPECT_EQ(split_mix(1234567, 4), 16408922859458223821U);
}

TEST(RandomMask, FollowsTheFormula) {
  std::mt19937_64 random(20261124);
  for (int round = 0; round < 400; ++round) {
    const uint64_t element_count = 1 + random() % 5000;
    const auto length = static_cast<uint32_t>(1 + random() % std::min<uint64_t>(5, element_count));
    const auto n = static_cast<uint32_t>(1 + random() % (element_count / length));
    const uint64_t seed = random();
    const auto rule = parse_random(seed, n, element_count, length);
    ASSERT_TRUE(rule.ok()) << rule.error().message;
    const auto list = expand_mask(rule.value());
    ASSERT_TRUE(list.ok());
    const std::vector<uint32_t> expected = naive_random(seed, n, element_count, length);
    check_list(list.value(), expected);
    EXPECT_EQ(list.value().is_runs(), length > 1);
    ASSERT_LT(expected.back(), element_count);
    for (size_t i = 1; i < expected.size(); ++i) ASSERT_LT(expected[i - 1], expected[i]);
  }
}

TEST(RandomMask, KnowsAVector) {
  const auto list = expand_mask(parse_random(1234567, 5, kMaxElements, 1).value());
  ASSERT_TRUE(list.ok());
  const std::vector<uint32_t> expected = {300716036U, 1008152602U, 2175149510U, 2790876325U,
                                          4200073850U};
  EXPECT_EQ(positions_of(list.value()), expected);
}

TEST(RandomMask, LargestTensor) {
  const auto list = expand_mask(parse_random(7, 100000, kMaxElements, 1).value());
  ASSERT_TRUE(list.ok());
  EXPECT_EQ(positions_of(list.value()), naive_random(7, 100000, kMaxElements, 1));
  EXPECT_GT(list.value().entries[99999], kMaxElements - 50000);
}

TEST(RandomMask, FullMaskIsEverything) {
  const auto entries = expand_mask(parse_random(3, 10, 10, 1).value());
  std::vector<uint32_t> all(10);
  std::iota(all.begin(), all.end(), 0U);
  check_list(entries.value(), all);
  const auto runs = expand_mask(parse_random(3, 5, 11, 2).value());
  ASSERT_EQ(runs.value().runs.size(), 1U);
  EXPECT_EQ(runs.value().runs[0].length, 10U);
}

TEST(RandomMask, RefusesMoreBlocksThanThereAre) {
  EXPECT_TRUE(parse_random(1, 4, 19, 4).ok());
  const auto rule = parse_random(1, 5, 19, 4);
  ASSERT_FALSE(rule.ok());
  EXPECT_EQ(rule.error().status, Status::BAD_INDEX);
  EXPECT_EQ(rule.error().offset_bytes, 0U);
  EXPECT_FALSE(parse_random(1, 1, 3, 4).ok()) << "not one whole block";
}

// --- largest magnitudes

template <typename Bits>
std::vector<uint32_t> naive_largest(const std::vector<Bits>& base, size_t k) {
  const auto magnitude = [&base](uint32_t i) {
    return base[i] & static_cast<Bits>(static_cast<Bits>(~Bits{0}) >> 1);
  };
  std::vector<uint32_t> order(base.size());
  std::iota(order.begin(), order.end(), 0U);
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return magnitude(a) > magnitude(b); });
  order.resize(k);
  std::sort(order.begin(), order.end());
  return order;
}

template <typename Bits>
Result<IndexList> select(Dtype dtype, const std::vector<Bits>& base, uint64_t k) {
  const testing::EncodedIndex encoded{{}, 1};
  const auto rule =
      parse_mask_rule(testing::index_stream(IndexCodec::top_magnitude, encoded, k, base.size(), 0));
  EXPECT_TRUE(rule.ok());
  Bytes bytes(base.size() * sizeof(Bits) + 1);  // at an odd address
  std::memcpy(bytes.data() + 1, base.data(), bytes.size() - 1);
  return select_top_magnitude(rule.value(), dtype, bytes.data() + 1);
}

template <typename Bits>
void check_selection(Dtype dtype, const std::vector<Bits>& base, uint64_t k) {
  const auto list = select(dtype, base, k);
  ASSERT_TRUE(list.ok());
  check_list(list.value(), naive_largest(base, k));
}

template <typename Bits>
void check_every_count(Dtype dtype, uint32_t seed) {
  std::mt19937 random(seed);
  for (const uint32_t distinct : {1U, 2U, 5U, 0xFFFFFFFFU}) {
    for (const size_t element_count : {1U, 2U, 17U, 150U}) {
      std::vector<Bits> base(element_count);
      for (Bits& bits : base) {
        const auto draw = static_cast<uint32_t>(random());
        // Few values give ties; the factor moves their differences through all digits.
        bits = static_cast<Bits>(distinct == 0xFFFFFFFFU ? draw : draw % distinct * 0x01230811U);
        if (random() % 2 == 0) bits ^= static_cast<Bits>(Bits{1} << (8 * sizeof(Bits) - 1));
      }
      for (uint64_t k = 1; k <= element_count; ++k) check_selection(dtype, base, k);
    }
  }
}

TEST(TopMagnitude, EveryCountOfEveryDtype) {
  check_every_count<uint32_t>(Dtype::f32, 1);
  check_every_count<uint16_t>(Dtype::f16, 2);
  check_every_count<uint16_t>(Dtype::bf16, 3);
}

/// Values that differ in one bit only: each digit of the selection decides once.
TEST(TopMagnitude, EveryBitDecides) {
  for (unsigned bit = 0; bit < 31; ++bit) {
    std::vector<uint32_t> base(40, 0x2AAAAAAAU & ~(1U << bit));
    for (const size_t i : {3U, 4U, 39U}) base[i] |= 1U << bit;
    base[4] |= 0x80000000U;
    for (const uint64_t k : {1U, 2U, 3U, 4U, 39U}) check_selection(Dtype::f32, base, k);
    if (bit >= 15) continue;
    const std::vector<uint16_t> half(base.begin(), base.end());
    for (const uint64_t k : {1U, 2U, 3U, 4U, 39U}) check_selection(Dtype::f16, half, k);
  }
}

TEST(TopMagnitude, SignedZerosTieAndNanIsTheLargest) {
  const std::vector<uint16_t> base = {0x8000, 0x0000, 0x7C00, 0xFE01, 0xFBFF, 0x8000};
  const auto first = [&base](uint64_t k) {
    return positions_of(select(Dtype::f16, base, k).value());
  };
  EXPECT_EQ(first(1), (std::vector<uint32_t>{3}));
  EXPECT_EQ(first(2), (std::vector<uint32_t>{2, 3}));
  EXPECT_EQ(first(3), (std::vector<uint32_t>{2, 3, 4}));
  EXPECT_EQ(first(4), (std::vector<uint32_t>{0, 2, 3, 4}));
  EXPECT_EQ(first(5), (std::vector<uint32_t>{0, 1, 2, 3, 4}));
}

TEST(TopMagnitude, LargeTensors) {
  std::mt19937 random(20261125);
  std::normal_distribution<float> normal(0.0F, 0.02F);
  std::vector<uint32_t> base(200000);
  for (uint32_t& bits : base) {
    const float value = normal(random);
    std::memcpy(&bits, &value, sizeof(bits));
  }
  for (const uint64_t k : {1U, 2000U, 100000U, 199999U, 200000U}) {
    check_selection(Dtype::f32, base, k);
  }
  std::vector<uint16_t> narrow(base.size());
  for (size_t i = 0; i < base.size(); ++i) narrow[i] = static_cast<uint16_t>(base[i] >> 16);
  for (const uint64_t k : {1U, 2000U, 100000U}) check_selection(Dtype::bf16, narrow, k);
}

}  // namespace
}  // namespace shira
