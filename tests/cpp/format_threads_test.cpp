// Files opened by several threads: the same content and the same errors as by one.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdint>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "format/file_bytes.h"
#include "format/layout.h"
#include "shb_expect.h"
#include "shb_hostile.h"
#include "shb_large.h"
#include "temporary_folder.h"

namespace shira::testing {
namespace {

constexpr uint32_t kThreadCounts[] = {2, 3, 8};
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)  // everything takes far longer
constexpr int kRounds = 2;
constexpr uint32_t kLayers = 3;
#else
constexpr int kRounds = 5;  // threads meet differently each time
constexpr uint32_t kLayers = 6;
#endif

OpenOptions with_threads(uint32_t thread_count, bool keep_content = true) {
  OpenOptions options;
  options.thread_count = thread_count;
  options.keep_content = keep_content;
  return options;
}

/// Files of a few hundred bytes are cut into pieces and groups, too.
OpenOptions with_threads_from_256_bytes(uint32_t thread_count) {
  OpenOptions options = with_threads(thread_count);
  options.threads_from_bytes = 256;
  return options;
}

/// Streams of every kind, no two alike, most of them large enough to be a task of their own.
FileInput large_input() {
  std::vector<TensorInput> tensors;
  for (uint32_t i = 0; i < kLayers; ++i) {
    const std::string name = "layer" + std::to_string(i);
    tensors.push_back(large_tensor(name + ".a", 600000 + i, IndexCodec::gaps8, std::nullopt));
    tensors.push_back(large_tensor(name + ".b", 700000 + i, IndexCodec::rice, ValueCodec::q8));
    tensors.push_back(
        large_tensor(name + ".c", 200000 + 2 * i, IndexCodec::gaps16, ValueCodec::q4, 2));
    tensors.push_back(large_tensor(name + ".d", 300000 + i, IndexCodec::runs, std::nullopt));
  }
  FileInput input;
  input.adapters.push_back(unbound(std::move(tensors)));
  return input;
}

/// The same in two tiers.
FileInput tiered_input() {
  FileInput input = large_input();
  std::vector<TensorInput>& tensors = input.adapters[0].tensors;
  for (size_t i = 0, count = tensors.size(); i < count; i += 3) {
    TensorInput row =
        large_tensor(tensors[i].name, 100000, IndexCodec::gaps16,
                     tensors[i].scaled ? std::optional(tensors[i].scaled->codec) : std::nullopt);
    const uint32_t behind = tensors[i].index.back() + 2;
    for (uint32_t& position : row.index) position += behind;
    row.dims = {row.index.back() + 2};
    tensors[i].dims = row.dims;
    row.tier = 1;
    tensors.push_back(row);
  }
  input.tier_count = 2;
  return input;
}

const Bytes& large_file() {
  static const Bytes file = build_file(large_input());
  return file;
}

/// Where the stream of a tensor begins in the file.
uint64_t index_offset(const Bytes& file, uint32_t number) {
  const auto section = get<uint64_t>(file, section_row(kIndex) + 8);
  return section +
         get<uint64_t>(file, section + number * layout::kIndexRowBytes + layout::index::kOffset);
}

uint64_t values_offset(const Bytes& file, uint32_t number) {
  const auto tensors = get<uint64_t>(file, section_row(kTensors) + 8);
  return get<uint64_t>(file, section_row(kValues) + 8) +
         get<uint64_t>(file,
                       tensors + number * layout::kTensorRowBytes + layout::tensor::kValueOffset);
}

/// Refused at `offset` of the file, in the same words whatever the number of threads.
void expect_refused_alike(const Bytes& file, Status status, uint64_t offset) {
  for (const bool keep_content : {true, false}) {
    const Error expected = read(file, with_threads(1, keep_content)).error();
    EXPECT_STREQ(status_name(expected.status), status_name(status)) << expected.message;
    EXPECT_EQ(expected.offset_bytes, offset) << expected.message;
    for (const uint32_t thread_count : kThreadCounts) {
      for (int round = 0; round < kRounds; ++round) {
        const auto opened = read(file, with_threads(thread_count, keep_content));
        ASSERT_FALSE(opened.ok());
        ASSERT_EQ(opened.error().status, expected.status);
        ASSERT_EQ(opened.error().offset_bytes, expected.offset_bytes);
        ASSERT_EQ(opened.error().tensor, expected.tensor);
        ASSERT_EQ(opened.error().message, expected.message);
      }
    }
  }
}

TEST(OpenThreads, GiveWhatOneGives) {
  for (const Bytes& file : {large_file(), build_file(tiered_input())}) {
    const FilePointer expected = open_good(file, with_threads(1));
    for (const uint32_t thread_count : kThreadCounts) {
      for (int round = 0; round < kRounds; ++round) {
        const FilePointer opened = open_good(file, with_threads(thread_count, round % 2 == 0));
        ASSERT_TRUE(opened);
        expect_holds_the_same(*opened, *expected);
      }
    }
  }
}

TEST(OpenThreads, FilesAndMemoryAreReadAlike) {
  const test::TemporaryFolder folder;
  const std::string path = folder / "large.shb";
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(large_file().data()),
             static_cast<std::streamsize>(large_file().size()));
  const FilePointer expected = open_good(large_file());
  for (const uint32_t thread_count : {1, 2}) {
    const auto opened = AdapterFile::open(path, with_threads(thread_count));
    ASSERT_TRUE(opened.ok()) << opened.error().message;
    expect_holds_the_same(*opened.value(), *expected);
    EXPECT_EQ(opened.value()->check_digests().ok(), expected->check_digests().ok());
  }
}

TEST(OpenThreads, AreStartedForLargeFilesOnly) {
  const Bytes small = sample();
  for (const uint32_t thread_count : {1, 2, 3}) {
    const OpenOptions options = with_threads(thread_count);
    const auto large = copy_file_bytes(large_file().data(), large_file().size(), options);
    ASSERT_TRUE(large.ok());
    EXPECT_EQ(large.value().pool->thread_count(), thread_count);
    const auto copied = copy_file_bytes(small.data(), small.size(), options);
    ASSERT_TRUE(copied.ok());
    EXPECT_EQ(copied.value().pool->thread_count(), 1U);
    const auto cut =
        copy_file_bytes(small.data(), small.size(), with_threads_from_256_bytes(thread_count));
    ASSERT_TRUE(cut.ok());
    EXPECT_EQ(cut.value().pool->thread_count(), thread_count);
  }
}

TEST(OpenThreads, AreFrom1To64) {
  for (const uint32_t thread_count : {0U, ThreadPool::kMaxThreads + 1, UINT32_MAX}) {
    const Error error = read(sample(), with_threads(thread_count)).error();
    EXPECT_EQ(error.status, Status::INVALID_ARGUMENT);
    EXPECT_NE(error.message.find("not in 1 to 64"), std::string::npos) << error.message;
  }
  EXPECT_TRUE(read(sample(), with_threads(ThreadPool::kMaxThreads)).ok());
}

// --- two faults of a kind each: the one with the lower offset is told

TEST(OpenThreads, TellTheFirstDamagedSection) {
  Bytes file = large_file();
  file[values_offset(file, 2) + 100] ^= 1U;
  expect_refused_alike(file, Status::SECTION_CHECKSUM,
                       section_row(kValues) + layout::section::kCrc);
  file[index_offset(file, 4 * kLayers - 2) + 100] ^= 1U;
  expect_refused_alike(file, Status::SECTION_CHECKSUM, section_row(kIndex) + layout::section::kCrc);
}

TEST(OpenThreads, TellTheFirstBadIndexStream) {
  Bytes file = large_file();
  const auto dims = [&](uint32_t number) {  // the last position is outside of them
    return get<uint64_t>(file, section_row(kTensors) + 8) + number * layout::kTensorRowBytes +
           layout::tensor::kDims;
  };
  const auto shrink = [&](uint32_t number) {
    const uint64_t row = get<uint64_t>(file, section_row(kIndex) + 8) +
                         number * layout::kIndexRowBytes + layout::index::kElementCount;
    put<uint32_t>(&file, dims(number), get<uint32_t>(file, dims(number)) / 2);
    put<uint64_t>(&file, row, get<uint64_t>(file, row) / 2);
    reseal(&file);
  };
  shrink(4 * kLayers - 4);  // gaps8
  const uint64_t late = read(file).error().offset_bytes;
  EXPECT_GT(late, index_offset(file, 4 * kLayers - 4));
  expect_refused_alike(file, Status::BAD_INDEX, late);
  shrink(5);  // Rice
  const uint64_t early = read(file).error().offset_bytes;
  EXPECT_LT(early, late);
  EXPECT_GT(early, index_offset(file, 5));
  expect_refused_alike(file, Status::BAD_INDEX, early);
}

TEST(OpenThreads, TellTheFirstBadValue) {
  Bytes file = large_file();
  const auto plant = [&](uint32_t number) {
    const uint64_t offset = values_offset(file, number) + 2000;  // an f16 value or scale
    put<uint16_t>(&file, offset, 0x7C00);
    reseal(&file);
    return offset;
  };
  const uint64_t late = plant(4 * kLayers - 1);
  expect_refused_alike(file, Status::BAD_VALUE, late);
  const uint64_t early = plant(5);
  expect_refused_alike(file, Status::BAD_VALUE, early);
}

TEST(OpenThreads, RefuseTheCatalogueAlike) {
  const OpenOptions sources = cryptography_available() ? hostile_sources() : OpenOptions{};
  for (const HostileFile& file : hostile_files()) {
    if (file.refers && !cryptography_available()) continue;
    for (const bool keep_content : {true, false}) {
      OpenOptions options = with_threads_from_256_bytes(3);
      options.index_sources = sources.index_sources;
      options.keep_content = keep_content;
      const auto opened = read(file.bytes, options);
      ASSERT_FALSE(opened.ok()) << file.what;
      EXPECT_STREQ(status_name(opened.error().status), status_name(file.status)) << file.what;
      EXPECT_EQ(opened.error().offset_bytes, file.offset) << file.what;
    }
  }
}

}  // namespace
}  // namespace shira::testing
