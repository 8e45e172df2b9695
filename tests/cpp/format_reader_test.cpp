// The .shb reader: what a good file says, in one tier or several, alone or referring to another.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "format/adapter_file.h"
#include "index_encoder.h"
#include "shb_builder.h"
#include "shb_sample.h"

namespace shira::testing {
namespace {

using FilePointer = std::shared_ptr<const AdapterFile>;

FilePointer open_good(const Bytes& bytes, const OpenOptions& options = {}) {
  auto opened = read(bytes, options);
  EXPECT_TRUE(opened.ok()) << opened.error().message << " at " << opened.error().offset_bytes;
  return opened.ok() ? opened.value() : nullptr;
}

const AdapterTensor& find(const Adapter& adapter, const std::string& name) {
  for (const AdapterTensor& tensor : adapter.tensors) {
    if (tensor.name == name) return tensor;
  }
  ADD_FAILURE() << name << " is missing";
  static const AdapterTensor none;
  return none;
}

/// The values of a row as numbers, by the plainest reading of section 10.
std::vector<float> numbers_of(const TensorInput& row) {
  std::vector<float> numbers;
  if (row.scaled) {
    for (size_t i = 0; i < row.scaled->levels.size(); ++i) {
      const float scale = f16_to_f32(row.scaled->scales[i / row.scaled->group]);
      numbers.push_back(
          std::ldexp(static_cast<float>(row.scaled->levels[i]) * scale, row.scaled->exponent));
    }
    return numbers;
  }
  for (size_t i = 0; i < row.index.size(); ++i) {
    const uint8_t* at = &row.values[i * dtype_bytes(row.value_dtype)];
    uint32_t word = 0;
    std::memcpy(&word, at, dtype_bytes(row.value_dtype));
    if (row.value_dtype == Dtype::f32) {
      numbers.push_back(float_from_bits(word));
    } else if (row.value_dtype == Dtype::f16) {
      numbers.push_back(f16_to_f32(static_cast<uint16_t>(word)));
    } else if (row.value_dtype == Dtype::bf16) {
      numbers.push_back(bf16_to_f32(static_cast<uint16_t>(word)));
    } else {
      numbers.push_back(static_cast<float>(static_cast<int8_t>(word)));
    }
  }
  return numbers;
}

std::vector<float> numbers_of(const AdapterTensor& tensor) {
  TensorInput row;
  row.value_dtype = tensor.value_dtype;
  row.index.resize(tensor.nnz);
  row.values.assign(tensor.values, tensor.values + tensor.nnz * dtype_bytes(tensor.value_dtype));
  return numbers_of(row);
}

/// Position to value, over all rows of one tensor in the first `tier_count` tiers.
std::map<uint32_t, float> entries_of(const AdapterInput& adapter, const std::string& name,
                                     uint32_t tier_count) {
  std::map<uint32_t, float> entries;
  for (const TensorInput& row : adapter.tensors) {
    if (row.name != name || row.tier >= tier_count) continue;
    const std::vector<float> numbers = numbers_of(row);
    for (size_t i = 0; i < row.index.size(); ++i) entries[row.index[i]] = numbers[i];
  }
  return entries;
}

std::map<uint32_t, float> entries_of(const AdapterTensor& tensor) {
  std::map<uint32_t, float> entries;
  const std::vector<float> numbers = numbers_of(tensor);
  const std::vector<uint32_t> positions = positions_of(*tensor.index);
  EXPECT_EQ(positions.size(), numbers.size());
  for (size_t i = 0; i < positions.size(); ++i) entries[positions[i]] = numbers[i];
  return entries;
}

/// Everything that `file` hands out is what `input` put in.
void expect_holds(const AdapterFile& file, const FileInput& input) {
  ASSERT_EQ(file.adapters().size(), input.adapters.size());
  for (size_t a = 0; a < input.adapters.size(); ++a) {
    const AdapterInput& expected = input.adapters[a];
    const Adapter& found = file.adapters()[a];
    SCOPED_TRACE(expected.name);
    EXPECT_EQ(found.file, &file);
    EXPECT_EQ(found.number, a);
    EXPECT_EQ(found.name, expected.name);
    EXPECT_EQ(found.is_bound, expected.bound);
    EXPECT_EQ(found.metadata_json, expected.metadata);
    std::map<std::string, const TensorInput*> highest;  // row of each tensor that was opened
    for (const TensorInput& row : expected.tensors) {
      if (row.tier >= file.opened_tier_count()) continue;
      const TensorInput*& slot = highest[row.name];
      if (slot == nullptr || slot->tier < row.tier) slot = &row;
    }
    ASSERT_EQ(found.tensors.size(), highest.size());
    size_t i = 0;
    for (const auto& [name, row] : highest) {  // ascending, as the reader's must be
      SCOPED_TRACE(name);
      const AdapterTensor& tensor = found.tensors[i++];
      EXPECT_EQ(tensor.name, name);
      EXPECT_EQ(tensor.dtype, row->dtype);
      EXPECT_EQ(tensor.dims, row->dims);
      EXPECT_EQ(tensor.value_kind, row->kind);
      EXPECT_EQ(tensor.value_codec, codec_of(*row));
      EXPECT_EQ(tensor.value_dtype, row->scaled ? Dtype::f32 : row->value_dtype);
      EXPECT_EQ(tensor.fingerprint, expected.bound ? row->fingerprint : Hash128{});
      EXPECT_EQ(tensor.base_digest, expected.bound ? row->base_digest : Hash128{});
      EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.values) % 8, 0U);
      if (!tensor.index) continue;
      EXPECT_FALSE(tensor.rule.has_value());
      EXPECT_EQ(tensor.nnz, tensor.index->entry_count);
      EXPECT_EQ(entries_of(tensor), entries_of(expected, name, file.opened_tier_count()));
    }
  }
}

FileInput one(const AdapterInput& adapter) {
  FileInput input;
  input.adapters = {adapter};
  return input;
}

// --- plain files

TEST(Reader, TellsWhatTheFileHolds) {
  const Bytes bytes = pack();
  const FilePointer file = open_good(bytes);
  ASSERT_TRUE(file);
  EXPECT_EQ(file->path(), "test.shb");
  EXPECT_EQ(file->version_major(), 1);
  EXPECT_EQ(file->version_minor(), 0);
  EXPECT_EQ(file->file_bytes(), bytes.size());
  EXPECT_EQ(file->tier_count(), 2U);
  EXPECT_EQ(file->opened_tier_count(), 2U);
  EXPECT_FALSE(file->signer().has_value());
  EXPECT_TRUE(std::equal(file->content_digest().begin(), file->content_digest().end(), &bytes[64]));
  const uint32_t kinds[] = {1, 2, 3, 4, 5, 6, 5, 6, 40000};
  const uint32_t index_counts[] = {0, 0, 0, 0, 4, 0, 3, 0, 0};
  ASSERT_EQ(file->sections().size(), 9U);
  for (size_t i = 0; i < 9; ++i) {
    const SectionInfo& section = file->sections()[i];
    EXPECT_EQ(section.kind, kinds[i]);
    EXPECT_EQ(section.tier, i == 6 || i == 7 ? 1U : 0U);
    EXPECT_EQ(section.index_count, index_counts[i]);
    EXPECT_EQ(section.offset_bytes, section_offset(bytes, i));
    EXPECT_EQ(section.size_bytes, section_bytes(bytes, i));
    EXPECT_EQ(section.crc32c, get<uint32_t>(bytes, section_row(i) + 4));
    EXPECT_TRUE(
        std::equal(section.sha256.begin(), section.sha256.end(), &bytes[section_row(i) + 32]));
  }
}

TEST(Reader, TellsWhatATensorIs) {
  const AdapterInput input = sample_input();
  const FilePointer file = open_good(build_adapter(input));
  ASSERT_TRUE(file);
  expect_holds(*file, one(input));
  const Adapter& adapter = file->adapters()[0];
  EXPECT_EQ(adapter.entry_count(), 4U + 12U + 5U + 3U);
  const AdapterTensor& beta = adapter.tensors[1];
  EXPECT_EQ(beta.numel, 24U);
  EXPECT_EQ(beta.value_stream_bytes, 24U);
  ASSERT_EQ(beta.parts.size(), 1U);
  EXPECT_EQ(beta.parts[0].codec, IndexCodec::gaps8);
  EXPECT_EQ(beta.parts[0].block_length, 4U);
  EXPECT_EQ(beta.parts[0].unit_count, 3U);
  EXPECT_EQ(beta.parts[0].stream_bytes, 3U);
  EXPECT_EQ(beta.parts[0].index_number, 1U);
  EXPECT_EQ(beta.index->runs.size(), 2U) << "touching blocks are one run";
  EXPECT_EQ(adapter.tensors[3].index->entries[1], 139998U);
}

TEST(Reader, KeepsItsOwnCopy) {
  Bytes bytes = sample();
  const Bytes original = bytes;
  const FilePointer file = open_good(bytes);
  std::fill(bytes.begin(), bytes.end(), uint8_t{0xFF});
  const AdapterTensor& alpha = file->adapters()[0].tensors[0];
  EXPECT_TRUE(
      std::equal(alpha.values, alpha.values + 16, &original[value_stream_offset(original, 0)]));
  EXPECT_EQ(alpha.name, "alpha");
}

TEST(Reader, GivesAnAdapterThatKeepsItsFileAlive) {
  std::shared_ptr<const Adapter> adapter = adapter_of(open_good(pack()), 1);
  EXPECT_EQ(adapter->name, pack_input().adapters[1].name);
  EXPECT_EQ(adapter->file->adapters().size(), 2U);
}

TEST(Reader, AcceptsAnUnboundAdapterOfDeltas) {
  const FilePointer file = open_good(build_adapter(unbound_input()));
  ASSERT_TRUE(file);
  expect_holds(*file, one(unbound_input()));
}

TEST(Reader, IgnoresWhatIsOptional) {
  Bytes bytes = sample();
  put<uint64_t>(&bytes, 32, UINT64_MAX);  // optional features
  put<uint16_t>(&bytes, 10, 0xFFFF);      // minor version
  reseal(&bytes);
  const FilePointer file = open_good(bytes);
  ASSERT_TRUE(file);
  EXPECT_EQ(file->version_minor(), 0xFFFF);
  FileInput input = one(sample_input());
  for (uint32_t i = 0; i < 58; ++i) input.optional.push_back({UINT32_MAX - i, Bytes(i + 1, 0xEE)});
  EXPECT_EQ(open_good(build_file(input))->sections().size(), 64U);
}

TEST(Reader, TakesNamesAsTheyAre) {
  AdapterInput input = sample_input();
  input.name = "../x";  // a name is no path
  input.tensors[0].name = "W";
  input.tensors[1].name = "w";
  input.tensors[2].name = "\xC3\xA9";   // one code point
  input.tensors[3].name = "e\xCC\x81";  // its decomposed twin: other bytes, another tensor
  const FilePointer file = open_good(build_adapter(input));
  ASSERT_TRUE(file);
  expect_holds(*file, one(input));
}

TEST(Reader, KeepsEveryFinitePattern) {
  const struct {
    Dtype dtype;
    std::vector<uint32_t> patterns;
  } formats[] = {
      {Dtype::f32, {0x7F7FFFFF, 0xFF7FFFFF, 0x7C000000, 0x80000000, 1, 0x807FFFFF}},
      {Dtype::f16, {0x7BFF, 0xFBFF, 0x7800, 0x8000, 1, 0x83FF}},
      {Dtype::bf16, {0x7F7F, 0xFF7F, 0x7C00, 0x8000, 1, 0x807F}},
      {Dtype::i8, {0x80, 0x7F, 0xFF, 0, 1, 0x81}},
      {Dtype::i4, {0xF8, 7, 0xFF, 0, 1, 0xF9}},
  };
  for (const auto& format : formats) {
    SCOPED_TRACE(dtype_name(format.dtype));
    AdapterInput input;
    input.tensors = {tensor("w", format.dtype, {6}, IndexCodec::gaps8, {0, 1, 2, 3, 4, 5})};
    Bytes& values = input.tensors[0].values;
    values.clear();
    for (const uint32_t pattern : format.patterns) {
      append(&values, &pattern, dtype_bytes(format.dtype));
    }
    const FilePointer file = open_good(build_adapter(input));
    ASSERT_TRUE(file);
    const AdapterTensor& found = file->adapters()[0].tensors[0];
    EXPECT_EQ(Bytes(found.values, found.values + values.size()), values);
  }
}

TEST(Reader, AcceptsTheLargestAllowed) {
  AdapterInput input = sample_input();
  input.name = std::string(1024, 'n');
  input.metadata = "{\"a\":\"" + std::string((1 << 20) - 8, 'x') + "\"}";
  ASSERT_EQ(input.metadata.size(), size_t{1} << 20);
  input.tensors[0].dims = {1, 1, 1, 1, 1, 1, 5, 858993459};  // 2^32 - 1 elements in rank 8
  ASSERT_TRUE(open_good(build_adapter(input)));
  input.name = "n";
  input.metadata = "{\"a\":" + std::string(63, '[') + std::string(63, ']') + "}";
  EXPECT_TRUE(open_good(build_adapter(input)));
}

TEST(Reader, AcceptsAllTensorsThatFit) {
  AdapterInput input;
  TensorInput w = tensor("", Dtype::f16, {1}, IndexCodec::gaps8, {0});
  for (int i = 0; i < 65536; ++i) {
    char name[16];
    std::snprintf(name, sizeof(name), "t%05d", i);
    w.name = name;
    input.tensors.push_back(w);
  }
  const FilePointer file = open_good(build_adapter(input));
  ASSERT_TRUE(file);
  EXPECT_EQ(file->adapters()[0].tensors.size(), 65536U);
  EXPECT_EQ(file->adapters()[0].tensors[65535].index, file->adapters()[0].tensors[0].index);
  w.name = "t99999";
  input.tensors.push_back(w);
  const Error error = read(build_adapter(input)).error();
  EXPECT_EQ(error.status, Status::BAD_COUNT);
  EXPECT_EQ(error.offset_bytes, 48U);
}

TEST(Reader, AcceptsAllAdaptersThatFit) {
  FileInput input;
  AdapterInput adapter = sample_input();
  adapter.tensors.resize(1);
  for (int i = 0; i < 1024; ++i) {
    adapter.name = "a" + std::to_string(i);
    input.adapters.push_back(adapter);
  }
  const FilePointer file = open_good(build_file(input));
  ASSERT_TRUE(file);
  expect_holds(*file, input);
  EXPECT_EQ(file->adapters()[1023].tensors[0].index, file->adapters()[0].tensors[0].index)
      << "decoded once";
}

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

// --- derived masks

TEST(DerivedMasks, StayRules) {
  const FilePointer file = open_good(build_adapter(derived_input()));
  ASSERT_TRUE(file);
  expect_holds(*file, one(derived_input()));
  for (const AdapterTensor& tensor : file->adapters()[0].tensors) {
    ASSERT_TRUE(tensor.rule.has_value());
    EXPECT_FALSE(tensor.index);
    EXPECT_EQ(tensor.rule->entry_count, tensor.nnz);
    EXPECT_EQ(tensor.rule->element_count, tensor.numel);
    if (tensor.rule->codec == IndexCodec::top_magnitude) continue;
    const auto expanded = expand_mask(*tensor.rule);
    ASSERT_TRUE(expanded.ok());
    for (const TensorInput& input : derived_input().tensors) {
      if (input.name == tensor.name) {
        EXPECT_EQ(positions_of(expanded.value()), input.index);
      }
    }
  }
}

TEST(DerivedMasks, OfBillionsOfEntriesCostNothing) {
  AdapterInput input = derived_input();
  TensorInput& largest = input.tensors[1];
  largest.dims = {65535, 65537};
  largest.entry_count = 4000000000;
  largest.kind = ValueKind::delta;
  largest.scaled = ScaledValues{ValueCodec::q1, 4000000000, 0, {0x3800}, {}};
  Bytes file = build_adapter(input);
  const Error error = read(file).error();
  EXPECT_EQ(error.status, Status::BAD_LAYOUT) << "4 billion values of one bit take 500 MB";
  EXPECT_EQ(error.offset_bytes, tensor_row(file, 1) + 40);
}

// --- references

class References : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!cryptography_available()) GTEST_SKIP() << "this build has no SHA-256";
  }
};

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

/// A source's tier that was not opened was not decoded, so its streams are checked here.
TEST_F(References, ToATierThatWasNotOpenedAreDecodedAndChecked) {
  FileInput input = pack_input();
  OpenOptions first;
  first.tier_count = 1;
  OpenOptions options;
  options.index_sources = {open_good(pack(), first)};
  input.references[1] = Sha256::digest(split(pack()).sections[6].bytes);
  const FilePointer file = open_good(build_file(input), options);
  ASSERT_TRUE(file);
  expect_holds(*file, input);

  Bytes bad = pack();
  bad[index_stream_offset(bad, 0, 1)] = 0xFF;
  reseal(&bad);
  options.index_sources = {open_good(bad, first)};
  input.references[1] = Sha256::digest(split(bad).sections[6].bytes);
  const Bytes refers = build_file(input);
  const Error error = read(refers, options).error();
  EXPECT_EQ(error.status, Status::BAD_INDEX);
  EXPECT_EQ(error.offset_bytes, section_offset(refers, 6));
  EXPECT_EQ(error.tensor, "code.i4");
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

// --- digests

class Digests : public References {};

TEST_F(Digests, OfGoodFilesAreRight) {
  for (const Bytes& bytes : {sample(), pack(), build_adapter(derived_input())}) {
    const auto checked = open_good(bytes)->check_digests();
    EXPECT_TRUE(checked.ok()) << checked.error().message;
  }
}

TEST_F(Digests, ThatAreWrongAreFoundInTheOrderOfTheSpecification) {
  Bytes bytes = pack();
  const auto expect_mismatch = [&](uint64_t offset) {
    put<uint32_t>(&bytes, 56, crc32c(&bytes[256], 9 * 64));
    put_crc_of_header(&bytes);
    const FilePointer file = open_good(bytes);
    ASSERT_TRUE(file) << "opening does not look at digests";
    const auto checked = file->check_digests();
    ASSERT_FALSE(checked.ok());
    EXPECT_EQ(checked.error().status, Status::DIGEST_MISMATCH);
    EXPECT_EQ(checked.error().offset_bytes, offset);
    EXPECT_EQ(checked.error().file, "test.shb");
    OpenOptions options;
    options.public_key = PublicKey{};
    const Error error = read(bytes, options).error();
    EXPECT_EQ(error.status, Status::DIGEST_MISMATCH);
    EXPECT_EQ(error.offset_bytes, offset);
  };
  bytes[64] ^= 1;
  expect_mismatch(64);
  for (int i = 8; i >= 0; --i) {  // the lowest section comes first
    bytes[section_row(static_cast<size_t>(i)) + 32 + 31] ^= 0x80;
    expect_mismatch(section_row(static_cast<size_t>(i)) + 32);
  }
}

TEST_F(Digests, CoverTheHeaderButForTheSignature) {
  Bytes bytes = sample();
  put<uint64_t>(&bytes, 32, 1);  // an optional feature
  put_crc_of_header(&bytes);
  EXPECT_EQ(open_good(bytes)->check_digests().error().offset_bytes, 64U);
  bytes = sample();
  put<uint8_t>(&bytes, 96, 1);  // a signature of zeros
  put_crc_of_header(&bytes);
  EXPECT_TRUE(open_good(bytes)->check_digests().ok());
}

TEST(DigestsWithoutCryptography, AreRefused) {
  if (cryptography_available()) GTEST_SKIP() << "this build can check them";
  EXPECT_EQ(open_good(sample())->check_digests().error().status, Status::NO_CRYPTOGRAPHY);
  OpenOptions options;
  options.public_key = PublicKey{};
  EXPECT_EQ(read(sample(), options).error().status, Status::NO_CRYPTOGRAPHY);
  options = {};
  options.index_sources = {open_good(sample())};
  EXPECT_EQ(read(referring_to(sample()), options).error().status, Status::NO_CRYPTOGRAPHY);
}

}  // namespace
}  // namespace shira::testing
