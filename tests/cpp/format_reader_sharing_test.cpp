// The .shb reader: packs and tiers, and files that refer to the positions of others.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "format/adapter_file.h"
#include "index_encoder.h"
#include "shb_builder.h"
#include "shb_expect.h"
#include "shb_sample.h"

namespace shira::testing {
namespace {

// --- packs and tiers

TEST(Tiers, AreMergedAllOrTheFirst) {
  const FileInput input = pack_input();
  const Bytes bytes = build_file(input);
  for (const uint32_t tier_count : {0U, 1U, 2U}) {
    SCOPED_TRACE(tier_count);
    OpenOptions options;
    options.tier_count = tier_count;
    const FilePointer file = open_good(bytes, options);
    ASSERT_TRUE(file);
    EXPECT_EQ(file->opened_tier_count(), tier_count == 0 ? 2U : tier_count);
    expect_holds(*file, input);
  }
  OpenOptions options;
  options.tier_count = 3;
  EXPECT_EQ(read(bytes, options).error().status, Status::INVALID_ARGUMENT);
}

TEST(Tiers, TellTheirParts) {
  const FilePointer file = open_good(pack());
  const AdapterTensor& w = find(file->adapters()[0], "w");
  ASSERT_EQ(w.parts.size(), 2U);
  EXPECT_EQ(w.parts[0].codec, IndexCodec::runs);
  EXPECT_EQ(w.parts[0].tier, 0U);
  EXPECT_EQ(w.parts[0].index_number, 3U);
  EXPECT_EQ(w.parts[1].codec, IndexCodec::gaps8);
  EXPECT_EQ(w.parts[1].tier, 1U);
  EXPECT_EQ(w.parts[1].index_number, 2U);
  EXPECT_EQ(w.nnz, 9U);
  EXPECT_EQ(w.value_stream_bytes, 18U);
  const AdapterTensor& four = find(file->adapters()[0], "q.four");
  EXPECT_EQ(four.parts[0].rice_bits, 1);
  EXPECT_EQ(four.value_stream_bytes, 3U * 2U + 66U);
}

TEST(Tiers, BecomeRunsWhereThatIsSmaller) {
  const auto merged = [](const std::vector<uint32_t>& lower, const std::vector<uint32_t>& upper) {
    const TensorInput row = tensor("w", Dtype::f16, {8, 8}, IndexCodec::runs, lower);
    AdapterInput adapter;
    adapter.tensors = {row, above(row, tensor("w", Dtype::f16, {8, 8}, IndexCodec::gaps8, upper))};
    FileInput input = one(adapter);
    input.tier_count = 2;
    const FilePointer file = open_good(build_file(input));
    expect_holds(*file, input);
    return file->adapters()[0].tensors[0].index;
  };
  const auto together = merged({4, 5, 6, 20}, {7, 8, 19, 21});  // 4 to 8, 19 to 21
  ASSERT_TRUE(together->is_runs());
  EXPECT_EQ(together->runs.size(), 2U);
  EXPECT_FALSE(merged({4, 20}, {6, 8, 30, 40})->is_runs());
}

TEST(Tiers, OfAdaptersThatSharePositionsAreMergedOnce) {
  FileInput input = pack_input();
  input.adapters[1].tensors = {input.adapters[0].tensors[4], input.adapters[0].tensors[7]};
  input.adapters[1].bound = true;
  const FilePointer file = open_good(build_file(input));
  ASSERT_TRUE(file);
  expect_holds(*file, input);
  EXPECT_EQ(find(file->adapters()[0], "w").index, file->adapters()[1].tensors[0].index);
  EXPECT_EQ(find(file->adapters()[0], "q.two").index, find(file->adapters()[0], "q.four").index);
}

/// `numel` elements dealt to tiers at random, now in runs and now one by one.
FileInput random_tiers(std::mt19937* random) {
  static constexpr IndexCodec kCodecs[] = {IndexCodec::gaps8, IndexCodec::gaps16, IndexCodec::rice,
                                           IndexCodec::runs};
  static constexpr Dtype kDtypes[] = {Dtype::f32, Dtype::f16, Dtype::bf16, Dtype::i8, Dtype::i4};
  const uint32_t numel = 2 + (*random)() % 400;
  const uint32_t tier_count = 2 + (*random)() % 7;
  const uint32_t longest_run = 1 + (*random)() % 12;
  const Dtype dtype = kDtypes[(*random)() % 5];
  const bool is_scaled = is_float(dtype) && (*random)() % 2 == 0;
  std::vector<std::vector<uint32_t>> positions(tier_count);
  for (uint32_t i = 0; i < numel;) {
    const uint32_t tier = (*random)() % (tier_count + 1);  // the last stands for nobody
    for (uint32_t length = 1 + (*random)() % longest_run; length > 0 && i < numel; --length, ++i) {
      if (tier < tier_count) positions[tier].push_back(i);
    }
  }
  FileInput input;
  input.tier_count = tier_count;
  AdapterInput adapter;
  std::vector<uint32_t> lower;
  for (uint32_t tier = 0; tier < tier_count; ++tier) {
    const std::vector<uint32_t>& index = positions[tier];
    // Every tier has a row of some tensor, else the file would not be valid.
    TensorInput filler =
        tensor("filler" + std::to_string(tier), Dtype::f16, {3}, IndexCodec::gaps8, {tier % 3});
    filler.tier = static_cast<uint8_t>(tier);
    adapter.tensors.push_back(filler);
    if (index.empty()) continue;
    const IndexCodec codec = kCodecs[(*random)() % 4];
    TensorInput row = is_scaled ? scaled_tensor("w", dtype, {numel}, codec, index, ValueCodec::q4)
                                : tensor("w", dtype, {numel}, codec, index);
    row.rice_bits = codec == IndexCodec::rice ? static_cast<uint8_t>((*random)() % 5) : 0;
    row.tier = static_cast<uint8_t>(tier);
    lower.insert(lower.end(), index.begin(), index.end());
    std::sort(lower.begin(), lower.end());
    row.set_base(base_of(row.dims, dtype), lower);
    adapter.tensors.push_back(row);
  }
  input.adapters = {adapter};
  return input;
}

TEST(Tiers, AreMergedWhateverTheyHold) {
  std::mt19937 random(20261122);
  for (int round = 0; round < 400; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    const FileInput input = random_tiers(&random);
    const Bytes bytes = build_file(input);
    for (uint32_t tier_count = 1; tier_count <= input.tier_count; ++tier_count) {
      OpenOptions options;
      options.tier_count = tier_count;
      const FilePointer file = open_good(bytes, options);
      ASSERT_TRUE(file);
      expect_holds(*file, input);
    }
    if (HasFailure()) return;
  }
}

/// Steps 8 to 10 leave out what was not asked for; the steps before do not.
TEST(Tiers, ThatAreNotOpenedNeedNotBeSound) {
  OpenOptions first;
  first.tier_count = 1;
  const Bytes good = pack();
  Bytes index = good;
  index[index_stream_offset(good, 0, 1)] = 0xFF;
  reseal(&index);
  EXPECT_EQ(read(index).error().status, Status::BAD_INDEX);
  EXPECT_TRUE(read(index, first).ok());
  Bytes value = good;
  put<uint16_t>(&value, value_stream_offset(good, 7), 0x7C00);
  reseal(&value);
  EXPECT_EQ(read(value).error().status, Status::BAD_VALUE);
  EXPECT_TRUE(read(value, first).ok());
  Bytes table = good;
  put<uint64_t>(&table, index_row(good, 0, 1) + 16, 0);
  reseal(&table);
  EXPECT_EQ(read(table, first).error().status, Status::BAD_SHAPE);
}

// --- references

using References = WithCryptography;

TEST_F(References, ShareThePositionsOfTheOtherFile) {
  FilePointer source = open_good(sample());
  OpenOptions options;
  options.index_sources = {nullptr, open_good(pack()), source};
  FileInput expected = one(sample_input());
  expected.adapters[0].name = "refers";
  const FilePointer file = open_good(referring_to(sample()), options);
  ASSERT_TRUE(file);
  expect_holds(*file, expected);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(file->adapters()[0].tensors[i].index, source->adapters()[0].tensors[i].index);
    EXPECT_EQ(file->adapters()[0].tensors[i].parts[0].index_number, i);
  }
  EXPECT_EQ(file->index_tables().size(), 0U) << "it has none to offer";
  options.index_sources.clear();
  source.reset();
  expect_holds(*file, expected);  // the positions live on
}

TEST_F(References, AreFoundByTheBytesAndNotByWhatTheOtherFileSays) {
  Bytes liar = sample();  // its section table declares another SHA-256 than its INDEX has
  put<uint8_t>(&liar, section_row(kIndex) + 32, liar[section_row(kIndex) + 32] ^ 1);
  put<uint32_t>(&liar, 56, crc32c(&liar[256], 6 * 64));
  put_crc_of_header(&liar);
  OpenOptions options;
  options.index_sources = {open_good(liar)};
  EXPECT_TRUE(open_good(referring_to(sample()), options));
  std::array<uint8_t, 32> declared{};
  std::copy_n(&liar[section_row(kIndex) + 32], 32, declared.begin());
  FileInput input = one(sample_input());
  input.references[0] = declared;
  EXPECT_EQ(read(build_file(input), options).error().status, Status::MISSING_INDEX);
}

TEST_F(References, OfATierTakeWhateverTierHasThePositions) {
  FileInput input = pack_input();
  const Parts parts = split(build_file(input));
  OpenOptions options;
  options.index_sources = {open_good(pack())};
  input.references[1] = Sha256::digest(parts.sections[6].bytes);
  const FilePointer file = open_good(build_file(input), options);
  ASSERT_TRUE(file);
  expect_holds(*file, input);
}

/// A source's tier that was not opened was not checked, and a reference is nothing to refer to.
TEST_F(References, FindOnlyWhatTheirSourceHasOpened) {
  FileInput input = pack_input();
  input.references[1] = Sha256::digest(split(pack()).sections[6].bytes);
  const Bytes refers = build_file(input);
  const auto expect_missing = [&](const OpenOptions& options) {
    const Error error = read(refers, options).error();
    EXPECT_EQ(error.status, Status::MISSING_INDEX);
    EXPECT_EQ(error.offset_bytes, section_offset(refers, 6));
  };
  OpenOptions first;
  first.tier_count = 1;
  OpenOptions options;
  options.index_sources = {open_good(pack(), first)};
  expect_missing(options);
  options.index_sources = {open_good(pack())};
  options.index_sources = {open_good(refers, options)};
  expect_missing(options);
}

TEST_F(References, ToDerivedMasksGiveRules) {
  const Bytes source = build_adapter(derived_input());
  FileInput input = one(derived_input());
  input.references[0] = Sha256::digest(split(source).sections[kIndex].bytes);
  OpenOptions options;
  options.index_sources = {open_good(source)};
  const FilePointer file = open_good(build_file(input), options);
  ASSERT_TRUE(file);
  EXPECT_TRUE(file->adapters()[0].tensors[0].rule.has_value());
}

}  // namespace
}  // namespace shira::testing
