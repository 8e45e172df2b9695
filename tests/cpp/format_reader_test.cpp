// The .shb reader: what a good file says, its derived masks, and its digests.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "format/adapter_file.h"
#include "index_encoder.h"
#include "shb_builder.h"
#include "shb_expect.h"
#include "shb_sample.h"

namespace shira::testing {
namespace {

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

// --- digests

using Digests = WithCryptography;

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
