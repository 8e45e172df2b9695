// The .shb reader: what a good file says, and every rule of docs/FORMAT.md broken once.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "format/adapter_file.h"
#include "shb_builder.h"
#include "shb_sample.h"

namespace shira::testing {
namespace {

// --- good files

TEST(Reader, TellsWhatTheFileHolds) {
  const Bytes bytes = sample();
  const auto opened = read(bytes);
  ASSERT_TRUE(opened.ok()) << opened.error().message << " at " << opened.error().offset_bytes;
  const AdapterFile& file = *opened.value();
  EXPECT_EQ(file.path(), "test.shb");
  EXPECT_EQ(file.name(), "german");
  EXPECT_TRUE(file.is_bound());
  EXPECT_EQ(file.metadata_json(), "{\"base\": \"tiny\"}");
  EXPECT_EQ(file.version_major(), 0);
  EXPECT_EQ(file.version_minor(), 1);
  EXPECT_EQ(file.file_bytes(), bytes.size());
  EXPECT_EQ(file.entry_count(), 4U + 12U + 5U + 3U);
  EXPECT_TRUE(std::equal(file.content_digest().begin(), file.content_digest().end(), &bytes[64]));
  ASSERT_EQ(file.sections().size(), 6U);
  for (size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(file.sections()[i].kind, i + 1);
    EXPECT_EQ(file.sections()[i].offset_bytes, section_offset(bytes, i));
    EXPECT_EQ(file.sections()[i].size_bytes, section_bytes(bytes, i));
    EXPECT_TRUE(std::equal(file.sections()[i].sha256.begin(), file.sections()[i].sha256.end(),
                           &bytes[section_row(i) + 32]));
  }
}

TEST(Reader, TellsWhatATensorIs) {
  const AdapterInput input = sample_input();
  const Bytes bytes = build_adapter(input);
  const auto opened = read(bytes);
  ASSERT_TRUE(opened.ok());
  ASSERT_EQ(opened.value()->tensors().size(), input.tensors.size());
  for (size_t i = 0; i < input.tensors.size(); ++i) {
    const TensorInput& expected = input.tensors[i];
    const AdapterTensor& found = opened.value()->tensors()[i];
    SCOPED_TRACE(expected.name);
    EXPECT_EQ(found.name, expected.name);
    EXPECT_EQ(found.dtype, expected.dtype);
    EXPECT_EQ(found.dims, expected.dims);
    EXPECT_EQ(found.index_codec, expected.codec);
    EXPECT_EQ(found.index_param, expected.block_length);
    EXPECT_EQ(found.value_kind, expected.kind);
    EXPECT_EQ(found.value_dtype, expected.value_dtype);
    EXPECT_EQ(found.fingerprint, expected.fingerprint);
    EXPECT_EQ(found.base_digest, expected.base_digest);
    EXPECT_EQ(found.nnz(), expected.index.size());
    EXPECT_EQ(found.value_bytes(), expected.values.size());
    EXPECT_EQ(Bytes(found.values, found.values + found.value_bytes()), expected.values);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(found.values) % 8, 0U);
  }
  const AdapterTensor& beta = opened.value()->tensors()[1];
  EXPECT_EQ(beta.numel, 24U);
  EXPECT_EQ(beta.unit_count, 3U);
  EXPECT_EQ(beta.index_bytes, 3U);
  EXPECT_EQ(beta.index.runs.size(), 2U) << "touching blocks are one run";
  EXPECT_EQ(opened.value()->tensors()[3].index.entries[1], 139998U);
}

TEST(Reader, KeepsItsOwnCopy) {
  Bytes bytes = sample();
  const Bytes original = bytes;
  const auto opened = read(bytes);
  ASSERT_TRUE(opened.ok());
  std::fill(bytes.begin(), bytes.end(), uint8_t{0xFF});
  const AdapterTensor& alpha = opened.value()->tensors()[0];
  EXPECT_TRUE(std::equal(alpha.values, alpha.values + alpha.value_bytes(),
                         &original[section_offset(original, kValues)]));
}

TEST(Reader, AcceptsAnUnboundAdapterOfDeltas) {
  const auto opened = read(build_adapter(unbound_input()));
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  EXPECT_FALSE(opened.value()->is_bound());
}

TEST(Reader, IgnoresUnknownOptionalFeatures) {
  Bytes bytes = sample();
  put<uint64_t>(&bytes, 32, UINT64_MAX);
  reseal(&bytes);
  EXPECT_TRUE(read(bytes).ok());
}

TEST(Reader, KeepsNegativeZeroAndSubnormals) {
  AdapterInput input = sample_input();
  for (TensorInput& tensor : input.tensors) {
    tensor.values[0] = 0x01;  // subnormal: all other bytes of the value are zero
    for (size_t i = 1; i < dtype_bytes(tensor.value_dtype); ++i)
      tensor.values[i] = i + 1 == dtype_bytes(tensor.value_dtype) ? 0x80 : 0;
  }
  const auto opened = read(build_adapter(input));
  ASSERT_TRUE(opened.ok());
  for (const AdapterTensor& tensor : opened.value()->tensors()) EXPECT_EQ(tensor.values[0], 0x01);
  EXPECT_EQ(opened.value()->tensors()[2].values[2 * 4 + 3], 0x80) << "-0.0f";
}

TEST(Reader, KeepsTheLargestFiniteValues) {
  const struct {
    Dtype dtype;
    std::vector<uint32_t> patterns;
  } formats[] = {
      {Dtype::f32, {0x7F7FFFFF, 0xFF7FFFFF, 0x7C000000, 0x7F000000}},
      {Dtype::f16, {0x7BFF, 0xFBFF, 0x7800, 0x03FF}},
      {Dtype::bf16, {0x7F7F, 0xFF7F, 0x7C00, 0x7F00}},
  };
  for (const auto& format : formats) {
    AdapterInput input;
    input.tensors.push_back(tensor("w", format.dtype, {4}, IndexCodec::gaps8, {0, 1, 2, 3}));
    input.tensors[0].values.clear();
    for (const uint32_t pattern : format.patterns) {
      append(&input.tensors[0].values, &pattern, dtype_bytes(format.dtype));
    }
    const auto opened = read(build_adapter(input));
    EXPECT_TRUE(opened.ok()) << dtype_name(format.dtype) << ": " << opened.error().message;
  }
}

TEST(Reader, AcceptsTheLargestAllowed) {
  AdapterInput input = sample_input();
  input.name = std::string(1024, 'n');
  input.metadata = "{\"a\":\"" + std::string((1 << 20) - 8, 'x') + "\"}";
  ASSERT_EQ(input.metadata.size(), size_t{1} << 20);
  input.tensors[0].dims = {1, 1, 1, 1, 1, 1, 5, 858993459};  // 2^32 - 1 elements in rank 8
  EXPECT_TRUE(read(build_adapter(input)).ok());
  input.metadata += " ";
  EXPECT_EQ(read(build_adapter(input)).error().status, Status::BAD_METADATA);
}

TEST(Reader, AcceptsAllTensorsThatFit) {
  AdapterInput input;
  TensorInput one = tensor("", Dtype::f16, {1}, IndexCodec::gaps8, {0});
  for (int i = 0; i < 65536; ++i) {
    char name[16];
    std::snprintf(name, sizeof(name), "t%05d", i);
    one.name = name;
    input.tensors.push_back(one);
  }
  const auto opened = read(build_adapter(input));
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  EXPECT_EQ(opened.value()->tensors().size(), 65536U);
  one.name = "t99999";
  input.tensors.push_back(one);
  const Error error = read(build_adapter(input)).error();
  EXPECT_EQ(error.status, Status::BAD_COUNT);
  EXPECT_EQ(error.offset_bytes, 48U);
}

// --- bad files

enum class Seal { none, header, all };

struct Case {
  const char* what;
  size_t field;  // absolute offset of the bytes replaced
  Bytes bytes;
  Status status;
  uint64_t offset;
  const char* tensor = "";
  Seal seal = Seal::all;
};

template <typename T>
Bytes le(T value) {
  Bytes bytes(sizeof(T));
  put<T>(&bytes, 0, value);
  return bytes;
}

Bytes u8(int value) { return le<uint8_t>(static_cast<uint8_t>(value)); }
Bytes u16(int value) { return le<uint16_t>(static_cast<uint16_t>(value)); }
Bytes u32(uint32_t value) { return le<uint32_t>(value); }
Bytes u64(uint64_t value) { return le<uint64_t>(value); }

std::set<Status>& provoked() {
  static std::set<Status> statuses;
  return statuses;
}

void expect_refused(const Bytes& file, Status status, uint64_t offset, const std::string& tensor) {
  const auto opened = read(file);
  ASSERT_FALSE(opened.ok());
  const Error& error = opened.error();
  EXPECT_STREQ(status_name(error.status), status_name(status)) << error.message;
  EXPECT_EQ(error.offset_bytes, offset) << error.message;
  EXPECT_EQ(error.tensor, tensor) << error.message;
  EXPECT_EQ(error.file, "test.shb");
  EXPECT_FALSE(error.message.empty());
  provoked().insert(error.status);
}

void check_cases(const Bytes& good, const std::vector<Case>& cases) {
  ASSERT_TRUE(read(good).ok()) << "the premise: the file is good before it is corrupted";
  for (const Case& item : cases) {
    SCOPED_TRACE(std::string(item.what) + " at " + std::to_string(item.field));
    Bytes file = good;
    ASSERT_LE(item.field + item.bytes.size(), file.size());
    std::copy(item.bytes.begin(), item.bytes.end(),
              file.begin() + static_cast<ptrdiff_t>(item.field));
    ASSERT_NE(file, good) << "the premise: something was corrupted";
    if (item.seal == Seal::all) reseal(&file);
    if (item.seal == Seal::header) put<uint32_t>(&file, 124, crc32c(file.data(), 124));
    expect_refused(file, item.status, item.offset, item.tensor);
  }
}

void refuse_broken_headers() {
  const Bytes good = sample();
  check_cases(
      good,
      {
          {"magic", 0, u8(0x88), Status::BAD_MAGIC, 0},
          {"magic", 7, u8('\r'), Status::BAD_MAGIC, 0},
          {"major version", 8, u16(1), Status::UNSUPPORTED_VERSION, 8},
          {"major version, whatever the rest", 8, u16(1), Status::UNSUPPORTED_VERSION, 8, "",
           Seal::none},
          {"minor version below", 10, u16(0), Status::UNSUPPORTED_VERSION, 10},
          {"minor version above", 10, u16(2), Status::UNSUPPORTED_VERSION, 10},
          {"header_bytes", 12, u32(127), Status::BAD_LAYOUT, 12},
          {"file_bytes above", 16, u64(good.size() + 1), Status::TRUNCATED, good.size()},
          {"file_bytes below", 16, u64(good.size() - 1), Status::TRAILING_BYTES, good.size() - 1},
          {"file_bytes huge", 16, u64(UINT64_MAX), Status::TRUNCATED, good.size()},
          {"required feature", 24, u64(1), Status::UNSUPPORTED_FEATURE, 24},
          {"required feature", 24, u64(uint64_t{1} << 63), Status::UNSUPPORTED_FEATURE, 24},
          {"section_count", 40, u32(5), Status::BAD_COUNT, 40},
          {"section_count", 40, u32(7), Status::BAD_COUNT, 40},
          {"adapter_count", 44, u32(0), Status::BAD_COUNT, 44},
          {"adapter_count", 44, u32(2), Status::BAD_COUNT, 44},
          {"tensor_count", 48, u32(0), Status::BAD_COUNT, 48},
          {"tensor_count", 48, u32(65537), Status::BAD_COUNT, 48},
          {"tensor_count", 48, u32(3), Status::BAD_COUNT, section_offset(good, kAdapters) + 12},
          {"section table checksum", 52, u32(0), Status::HEADER_CHECKSUM, 52, "", Seal::header},
          {"section table", 200, u8(0xEE), Status::HEADER_CHECKSUM, 52, "", Seal::none},
          {"reserved", 56, u8(1), Status::RESERVED_NOT_ZERO, 56},
          {"reserved", 63, u8(1), Status::RESERVED_NOT_ZERO, 63},
          {"reserved", 96, u8(1), Status::RESERVED_NOT_ZERO, 96},
          {"reserved", 123, u8(0x80), Status::RESERVED_NOT_ZERO, 123},
          {"content digest", 64, u64(0), Status::HEADER_CHECKSUM, 124, "", Seal::none},
          {"header checksum", 124, u32(0), Status::HEADER_CHECKSUM, 124, "", Seal::none},
      });
}

void refuse_broken_section_tables() {
  const Bytes good = sample();
  std::vector<Case> cases;
  for (size_t i = 0; i < 6; ++i) {
    const size_t row = section_row(i);
    const uint64_t offset = section_offset(good, i);
    const uint64_t size_bytes = section_bytes(good, i);
    cases.push_back({"kind", row, u32(i == 0 ? 2 : 1), Status::BAD_LAYOUT, row});
    cases.push_back({"kind", row, u32(7), Status::BAD_LAYOUT, row});
    cases.push_back({"section checksum", offset, u8(good[offset] ^ 1), Status::SECTION_CHECKSUM,
                     row + 4, "", Seal::none});
    cases.push_back({"last byte", offset + size_bytes - 1, u8(good[offset + size_bytes - 1] ^ 0x80),
                     Status::SECTION_CHECKSUM, row + 4, "", Seal::none});
    cases.push_back({"offset", row + 8, u64(offset + 64), Status::BAD_LAYOUT, row + 8});
    cases.push_back({"offset", row + 8, u64(offset - 64), Status::BAD_LAYOUT, row + 8});
    cases.push_back({"offset", row + 8, u64(UINT64_MAX - 63), Status::BAD_LAYOUT, row + 8});
    cases.push_back({"no size", row + 16, u64(0), Status::BAD_LAYOUT, row + 16});
    cases.push_back(
        {"size", row + 16, u64(good.size() - offset + 1), Status::BAD_LAYOUT, row + 16});
    cases.push_back({"size", row + 16, u64(UINT64_MAX), Status::BAD_LAYOUT, row + 16});
    cases.push_back({"size", row + 16, u64(uint64_t{1} << 63), Status::BAD_LAYOUT, row + 16});
    cases.push_back({"reserved", row + 24, u8(1), Status::RESERVED_NOT_ZERO, row + 24});
    cases.push_back({"reserved", row + 31, u8(1), Status::RESERVED_NOT_ZERO, row + 31});
    const uint64_t end = offset + size_bytes;
    if (end % 64 != 0 && i != kValues) {
      cases.push_back({"padding", end, u8(1), Status::RESERVED_NOT_ZERO, end});
      const uint64_t next = section_offset(good, i + 1);
      cases.push_back({"padding", next - 1, u8(1), Status::RESERVED_NOT_ZERO, next - 1});
    }
  }
  const size_t last = section_row(kValues);
  cases.push_back({"hole at the end", last + 16, u64(section_bytes(good, kValues) - 1),
                   Status::BAD_LAYOUT, last + 16});
  check_cases(good, cases);
}

void refuse_broken_adapter_rows() {
  const Bytes good = sample();
  const size_t row = section_offset(good, kAdapters);
  check_cases(
      good, {
                {"name_offset", row, u32(1), Status::BAD_LAYOUT, row},
                {"no name", row + 4, u32(0), Status::BAD_NAME, row + 4},
                {"long name", row + 4, u32(1025), Status::BAD_NAME, row + 4},
                {"name leaves NAMES", row + 4, u32(1024), Status::BAD_LAYOUT, row + 4},
                {"first_tensor", row + 8, u32(1), Status::BAD_COUNT, row + 8},
                {"tensor_count", row + 12, u32(3), Status::BAD_COUNT, row + 12},
                {"reserved flag", row + 16, u32(3), Status::RESERVED_NOT_ZERO, row + 16},
                {"reserved flag", row + 16, u32(0x80000001), Status::RESERVED_NOT_ZERO, row + 16},
                {"unbound", row + 16, u32(0), Status::BAD_ENUM, tensor_row(good, 0) + 12, "alpha"},
                {"reserved", row + 20, u8(1), Status::RESERVED_NOT_ZERO, row + 20},
                {"reserved", row + 63, u8(1), Status::RESERVED_NOT_ZERO, row + 63},
            });
}

void refuse_broken_tensor_types() {
  const Bytes good = sample();
  const size_t alpha = tensor_row(good, 0);  // f32, gaps8
  const size_t gamma = tensor_row(good, 2);  // f16 with f32 deltas
  check_cases(
      good,
      {
          {"dtype", alpha + 8, u8(0), Status::BAD_ENUM, alpha + 8, "alpha"},
          {"dtype", alpha + 8, u8(4), Status::BAD_ENUM, alpha + 8, "alpha"},
          {"index codec", alpha + 10, u8(0), Status::BAD_ENUM, alpha + 10, "alpha"},
          {"index codec", alpha + 10, u8(6), Status::BAD_ENUM, alpha + 10, "alpha"},
          {"value codec", alpha + 11, u8(0), Status::BAD_ENUM, alpha + 11, "alpha"},
          {"value codec", alpha + 11, u8(4), Status::BAD_ENUM, alpha + 11, "alpha"},
          {"target of another dtype", alpha + 11, u8(2), Status::BAD_ENUM, alpha + 11, "alpha"},
          {"value kind", alpha + 12, u8(2), Status::BAD_ENUM, alpha + 12, "alpha"},
          {"delta as target", gamma + 12, u8(0), Status::BAD_ENUM, gamma + 11, "gamma"},
          {"no fingerprint", alpha + 13, u8(0), Status::BAD_ENUM, alpha + 13, "alpha"},
          {"reserved flag", alpha + 13, u8(3), Status::RESERVED_NOT_ZERO, alpha + 13, "alpha"},
          {"reserved flag", alpha + 13, u8(0x81), Status::RESERVED_NOT_ZERO, alpha + 13, "alpha"},
          {"reserved", alpha + 14, u8(1), Status::RESERVED_NOT_ZERO, alpha + 14, "alpha"},
          {"reserved", alpha + 15, u8(1), Status::RESERVED_NOT_ZERO, alpha + 15, "alpha"},
          {"index section", alpha + 20, u32(5), Status::BAD_LAYOUT, alpha + 20, "alpha"},
          {"value section", alpha + 24, u32(4), Status::BAD_LAYOUT, alpha + 24, "alpha"},
      });
}

void refuse_broken_shapes() {
  const Bytes good = sample();
  const size_t alpha = tensor_row(good, 0);
  check_cases(
      good,
      {
          {"rank", alpha + 9, u8(0), Status::BAD_SHAPE, alpha + 9, "alpha"},
          {"rank", alpha + 9, u8(9), Status::BAD_SHAPE, alpha + 9, "alpha"},
          {"rank", alpha + 9, u8(255), Status::BAD_SHAPE, alpha + 9, "alpha"},
          {"rank below the dims", alpha + 9, u8(1), Status::BAD_SHAPE, alpha + 68, "alpha"},
          {"rank above the dims", alpha + 9, u8(3), Status::BAD_SHAPE, alpha + 72, "alpha"},
          {"empty", alpha + 64, u32(0), Status::BAD_SHAPE, alpha + 64, "alpha"},
          {"dim behind the rank", alpha + 92, u32(1), Status::BAD_SHAPE, alpha + 92, "alpha"},
          {"2^32 elements", alpha + 64, u32(0x20000000), Status::BAD_SHAPE, alpha + 68, "alpha"},
          {"wraps 64 bits", alpha + 64, Bytes(8, 0xFF), Status::BAD_SHAPE, alpha + 68, "alpha"},
      });
}

void refuse_broken_counts() {
  const Bytes good = sample();
  const size_t alpha = tensor_row(good, 0);  // gaps8: 4 entries of 32 elements
  const size_t beta = tensor_row(good, 1);   // blocks8: 3 blocks of 4
  const size_t gamma = tensor_row(good, 2);  // runs: 3 of 5 entries
  const size_t gamma_index = section_offset(good, kIndex) + 16;
  check_cases(
      good,
      {
          {"param of gaps", alpha + 16, u32(1), Status::BAD_INDEX, alpha + 16, "alpha"},
          {"param of runs", gamma + 16, u32(2), Status::BAD_INDEX, gamma + 16, "gamma"},
          {"block of 0", beta + 16, u32(0), Status::BAD_INDEX, beta + 16, "beta"},
          {"block of 1", beta + 16, u32(1), Status::BAD_INDEX, beta + 16, "beta"},
          {"block of 65536", beta + 16, u32(65536), Status::BAD_INDEX, beta + 16, "beta"},
          {"block of 3", beta + 16, u32(3), Status::BAD_COUNT, beta + 28, "beta"},
          {"no units", alpha + 28, u32(0), Status::BAD_COUNT, alpha + 28, "alpha"},
          {"units above nnz", alpha + 28, u32(5), Status::BAD_COUNT, alpha + 28, "alpha"},
          {"units above nnz", gamma + 28, u32(6), Status::BAD_COUNT, gamma + 28, "gamma"},
          {"units below nnz", alpha + 28, u32(3), Status::BAD_COUNT, alpha + 28, "alpha"},
          {"units that wrap", beta + 28, u32(0x40000003), Status::BAD_COUNT, beta + 28, "beta"},
          {"no entries", alpha + 32, u64(0), Status::BAD_COUNT, alpha + 32, "alpha"},
          {"entries above elements", alpha + 32, u64(33), Status::BAD_COUNT, alpha + 32, "alpha"},
          {"entries huge", alpha + 32, u64(UINT64_MAX), Status::BAD_COUNT, alpha + 32, "alpha"},
          {"entries above units", alpha + 32, u64(5), Status::BAD_COUNT, alpha + 28, "alpha"},
          {"runs one short", gamma + 28, u32(2), Status::BAD_INDEX, gamma_index + 4, "gamma"},
      });
}

void refuse_broken_streams() {
  const Bytes good = sample();
  const size_t alpha = tensor_row(good, 0);
  const size_t zeta = tensor_row(good, 3);
  const size_t index = section_offset(good, kIndex);
  const size_t values = section_offset(good, kValues);
  ASSERT_EQ(get<uint64_t>(good, alpha + 48), 4U);
  check_cases(
      good,
      {
          {"index offset", alpha + 40, u64(8), Status::BAD_LAYOUT, alpha + 40, "alpha"},
          {"index offset", zeta + 40, u64(0), Status::BAD_LAYOUT, zeta + 40, "zeta"},
          {"index offset huge", zeta + 40, u64(UINT64_MAX), Status::BAD_LAYOUT, zeta + 40, "zeta"},
          {"no index", alpha + 48, u64(0), Status::BAD_LAYOUT, alpha + 48, "alpha"},
          {"index leaves INDEX", alpha + 48, u64(1000), Status::BAD_LAYOUT, alpha + 48, "alpha"},
          {"index huge", alpha + 48, u64(UINT64_MAX), Status::BAD_LAYOUT, alpha + 48, "alpha"},
          {"index short", alpha + 48, u64(3), Status::BAD_INDEX, index + 3, "alpha"},
          {"index long", alpha + 48, u64(5), Status::BAD_INDEX, index + 4, "alpha"},
          {"value offset", alpha + 56, u64(8), Status::BAD_LAYOUT, alpha + 56, "alpha"},
          {"value offset huge", zeta + 56, u64(UINT64_MAX - 7), Status::BAD_LAYOUT, zeta + 56,
           "zeta"},
          {"index padding", index + 4, u8(1), Status::RESERVED_NOT_ZERO, index + 4, "beta"},
          {"index padding", index + 7, u8(1), Status::RESERVED_NOT_ZERO, index + 7, "beta"},
          {"value padding", values + 63, u8(1), Status::RESERVED_NOT_ZERO, values + 63, "zeta"},
          {"entry leaves the tensor", index + 3, u8(22), Status::BAD_INDEX, index + 3, "alpha"},
          {"gap goes on", index + 3, u8(255), Status::BAD_INDEX, index + 4, "alpha"},
          {"block leaves the tensor", index + 8 + 2, u8(4), Status::BAD_INDEX, index + 10, "beta"},
          {"runs touch", index + 16 + 2, u8(0), Status::BAD_INDEX, index + 18, "gamma"},
          {"runs have another sum", index + 16 + 1, u8(1), Status::BAD_INDEX, index + 16, "gamma"},
      });
}

void refuse_values_that_are_not_finite() {
  const Bytes good = sample();
  const size_t values = section_offset(good, kValues);
  const size_t beta = values + 16;
  const size_t gamma = values + 40;
  const size_t zeta = values + 64;
  check_cases(
      good,
      {
          {"f32 infinity", values + 4, u32(0x7F800000), Status::BAD_VALUE, values + 4, "alpha"},
          {"f32 -infinity", values + 12, u32(0xFF800000), Status::BAD_VALUE, values + 12, "alpha"},
          {"f32 NaN", values, u32(0x7F800001), Status::BAD_VALUE, values, "alpha"},
          {"bf16 infinity", beta + 22, u16(0x7F80), Status::BAD_VALUE, beta + 22, "beta"},
          {"bf16 NaN", beta, u16(0xFFC0), Status::BAD_VALUE, beta, "beta"},
          {"f32 delta NaN", gamma + 16, u32(0xFFFFFFFF), Status::BAD_VALUE, gamma + 16, "gamma"},
          {"f16 infinity", zeta + 2, u16(0xFC00), Status::BAD_VALUE, zeta + 2, "zeta"},
          {"f16 NaN", zeta + 4, u16(0x7C01), Status::BAD_VALUE, zeta + 4, "zeta"},
      });
}

void refuse_broken_names() {
  const Bytes good = sample();
  const size_t names = section_offset(good, kNames);  // "german" "alpha" "beta" "gamma" "zeta"
  const size_t alpha = tensor_row(good, 0);
  const size_t beta = tensor_row(good, 1);
  const size_t zeta = tensor_row(good, 3);
  check_cases(
      good, {
                {"control character", names + 2, u8(0x1F), Status::BAD_NAME, names + 2},
                {"delete", names + 8, u8(0x7F), Status::BAD_NAME, names + 8},
                {"NUL", names + 8, u8(0), Status::BAD_NAME, names + 8},
                {"not UTF-8", names + 6, u8(0xFF), Status::BAD_NAME, names + 6},
                {"cut UTF-8", names + 10, u8(0xC3), Status::BAD_NAME, names + 10},
                {"not sorted", names + 6, u8('z'), Status::BAD_NAME, names + 11},
                {"not packed", alpha, u32(5), Status::BAD_LAYOUT, alpha},
                {"not packed", beta, u32(12), Status::BAD_LAYOUT, beta},
                {"no name", alpha + 4, u32(0), Status::BAD_NAME, alpha + 4},
                {"long name", alpha + 4, u32(1025), Status::BAD_NAME, alpha + 4},
                {"name leaves NAMES", zeta + 4, u32(5), Status::BAD_LAYOUT, zeta + 4},
                {"NAMES goes on", zeta + 4, u32(3), Status::BAD_LAYOUT, names + 6 + 5 + 4 + 5 + 3},
            });
  AdapterInput twins = sample_input();
  twins.tensors.resize(2);
  twins.tensors[0].name = "w1";
  twins.tensors[1].name = "w2";
  const Bytes pair = build_adapter(twins);
  const size_t second = section_offset(pair, kNames) + 6 + 2;
  check_cases(pair, {{"duplicate", second + 1, u8('1'), Status::BAD_NAME, second}});
}

void refuse_hashes_where_there_is_no_fingerprint() {
  const Bytes good = build_adapter(unbound_input());
  const size_t alpha = tensor_row(good, 0);
  check_cases(
      good,
      {
          {"fingerprint", alpha + 96, u8(1), Status::RESERVED_NOT_ZERO, alpha + 96, "alpha"},
          {"base digest", alpha + 127, u8(1), Status::RESERVED_NOT_ZERO, alpha + 127, "alpha"},
          {"flag", alpha + 13, u8(1), Status::BAD_ENUM, alpha + 13, "alpha"},
          {"target", alpha + 12, u8(0), Status::BAD_ENUM, alpha + 12, "alpha"},
      });
}

void refuse_sections_of_the_wrong_size() {
  const auto changed = [](size_t section, const std::function<void(Bytes*)>& change) {
    Sections sections = split(sample());
    change(&sections[section]);
    return assemble(sections, 4);
  };
  const auto longer = [](Bytes* bytes) { bytes->push_back(0); };
  const auto shorter = [](Bytes* bytes) { bytes->pop_back(); };
  const auto row_longer = [](Bytes* bytes) { bytes->resize(bytes->size() + 128); };
  const size_t adapters = section_row(kAdapters) + 16;
  const size_t tensors = section_row(kTensors) + 16;
  expect_refused(changed(kAdapters, longer), Status::BAD_LAYOUT, adapters, "");
  expect_refused(changed(kAdapters, shorter), Status::BAD_LAYOUT, adapters, "");
  expect_refused(changed(kTensors, longer), Status::BAD_LAYOUT, tensors, "");
  expect_refused(changed(kTensors, shorter), Status::BAD_LAYOUT, tensors, "");
  expect_refused(changed(kTensors, row_longer), Status::BAD_LAYOUT, tensors, "");
  for (const size_t section : {kNames, kIndex, kValues}) {
    SCOPED_TRACE(section);
    const Bytes file = changed(section, longer);
    expect_refused(file, Status::BAD_LAYOUT,
                   section_offset(file, section) + section_bytes(file, section) - 1, "");
  }
  const size_t zeta = tensor_row(sample(), 3);
  expect_refused(changed(kNames, shorter), Status::BAD_LAYOUT, zeta + 4, "");
  expect_refused(changed(kIndex, shorter), Status::BAD_LAYOUT, zeta + 48, "zeta");
  expect_refused(changed(kValues, shorter), Status::BAD_LAYOUT, zeta + 32, "zeta");
}

void refuse_broken_metadata() {
  const auto with = [](const std::string& metadata) {
    Sections sections = split(sample());
    sections[kMetadata].assign(metadata.begin(), metadata.end());
    return assemble(sections, 4);
  };
  ASSERT_TRUE(read(with("{}")).ok());
  const size_t begin = section_offset(sample(), kMetadata);
  const size_t size_field = section_row(kMetadata) + 16;
  expect_refused(with("{"), Status::BAD_METADATA, size_field, "");
  expect_refused(with("{\"a\":\"" + std::string(1 << 20, 'x') + "\"}"), Status::BAD_METADATA,
                 size_field, "");
  expect_refused(with("[]"), Status::BAD_METADATA, begin, "");
  expect_refused(with("{}\n"), Status::BAD_METADATA, begin + 2, "");
  expect_refused(with(" {}"), Status::BAD_METADATA, begin, "");
  expect_refused(with("\xEF\xBB\xBF{}"), Status::BAD_METADATA, begin, "");
  expect_refused(with("{\"a\":\"\xFF\"}"), Status::BAD_METADATA, begin + 6, "");
  expect_refused(with("{\"a\":nan}"), Status::BAD_METADATA, begin + 6, "");
}

TEST(ReaderRefuses, BrokenHeaders) { refuse_broken_headers(); }
TEST(ReaderRefuses, BrokenSectionTables) { refuse_broken_section_tables(); }
TEST(ReaderRefuses, BrokenAdapterRows) { refuse_broken_adapter_rows(); }
TEST(ReaderRefuses, BrokenTensorTypes) { refuse_broken_tensor_types(); }
TEST(ReaderRefuses, BrokenShapes) { refuse_broken_shapes(); }
TEST(ReaderRefuses, BrokenCounts) { refuse_broken_counts(); }
TEST(ReaderRefuses, BrokenStreams) { refuse_broken_streams(); }
TEST(ReaderRefuses, ValuesThatAreNotFinite) { refuse_values_that_are_not_finite(); }
TEST(ReaderRefuses, BrokenNames) { refuse_broken_names(); }
TEST(ReaderRefuses, HashesWhereThereIsNoFingerprint) {
  refuse_hashes_where_there_is_no_fingerprint();
}
TEST(ReaderRefuses, SectionsOfTheWrongSize) { refuse_sections_of_the_wrong_size(); }
TEST(ReaderRefuses, BrokenMetadata) { refuse_broken_metadata(); }

/// The catalogue above is complete: a new status of the format needs a file that provokes it.
TEST(ReaderRefuses, WithEveryStatusOfTheFormat) {
  const std::set<Status> elsewhere = {Status::DIGEST_MISMATCH, Status::BAD_PROGRAM_FILE};
  refuse_broken_headers();
  refuse_broken_section_tables();
  refuse_broken_adapter_rows();
  refuse_broken_tensor_types();
  refuse_broken_shapes();
  refuse_broken_counts();
  refuse_broken_streams();
  refuse_values_that_are_not_finite();
  refuse_broken_names();
  refuse_hashes_where_there_is_no_fingerprint();
  refuse_sections_of_the_wrong_size();
  refuse_broken_metadata();
  const Status all[] = {
#define X(number, name, parent, text) Status::name,
#include "shira/status.def"
#undef X
  };
  for (const Status status : all) {
    const int number = static_cast<int>(status);
    if (number < 20 || number >= 50 || elsewhere.count(status) != 0) continue;
    EXPECT_EQ(provoked().count(status), 1U) << status_name(status);
  }
}

}  // namespace
}  // namespace shira::testing
