// The .shb reader under attack: damaged and hostile files, and what they may make it allocate.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <random>
#include <vector>

#include "format/adapter_file.h"
#include "shb_builder.h"
#include "shb_sample.h"

// --- every allocation of this program is counted, to bound what a hostile file can make the reader
// allocate

namespace {
std::atomic<uint64_t> allocated_bytes{0};

void* counted_allocation(size_t size_bytes) {
  allocated_bytes += size_bytes;
  return std::malloc(size_bytes == 0 ? 1 : size_bytes);
}
}  // namespace

void* operator new(size_t size_bytes) { return counted_allocation(size_bytes); }
void* operator new[](size_t size_bytes) { return counted_allocation(size_bytes); }
void* operator new(size_t size_bytes, const std::nothrow_t&) noexcept {
  return counted_allocation(size_bytes);
}
void* operator new[](size_t size_bytes, const std::nothrow_t&) noexcept {
  return counted_allocation(size_bytes);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }

namespace shira::testing {
namespace {

// --- damage anywhere

void expect_refused(const Bytes& file, Status status, uint64_t offset) {
  const auto opened = read(file);
  ASSERT_FALSE(opened.ok());
  EXPECT_EQ(opened.error().status, status) << opened.error().message;
  EXPECT_EQ(opened.error().offset_bytes, offset) << opened.error().message;
}

TEST(ReaderRefuses, EveryTruncation) {
  const Bytes good = sample();
  for (size_t size = 0; size < good.size(); ++size) {
    const auto opened = read(Bytes(good.begin(), good.begin() + static_cast<ptrdiff_t>(size)));
    ASSERT_FALSE(opened.ok()) << size;
    ASSERT_EQ(opened.error().status, Status::TRUNCATED) << size << ": " << opened.error().message;
    ASSERT_EQ(opened.error().offset_bytes, size);
  }
  EXPECT_EQ(AdapterFile::from_bytes(nullptr, 0, "nothing").error().status, Status::TRUNCATED);
}

TEST(ReaderRefuses, EveryTruncationThatOwnsUpToIt) {
  const Bytes good = sample();
  for (size_t size = 128; size < good.size(); ++size) {
    Bytes file(good.begin(), good.begin() + static_cast<ptrdiff_t>(size));
    put<uint64_t>(&file, 16, size);
    put<uint32_t>(&file, 124, crc32c(file.data(), 124));
    const auto opened = read(file);
    ASSERT_FALSE(opened.ok()) << size;
    ASSERT_EQ(opened.error().status, size < 512 ? Status::TRUNCATED : Status::BAD_LAYOUT) << size;
  }
}

TEST(ReaderRefuses, EveryAddedByte) {
  Bytes file = sample();
  const size_t size = file.size();
  file.push_back(0);
  expect_refused(file, Status::TRAILING_BYTES, size);
  put<uint64_t>(&file, 16, file.size());
  reseal(&file);
  expect_refused(file, Status::BAD_LAYOUT, section_row(kValues) + 16);
}

TEST(ReaderRefuses, EveryFlippedBit) {
  Bytes file = sample();
  ASSERT_TRUE(read(file).ok());
  for (size_t offset = 0; offset < file.size(); ++offset) {
    for (int bit = 0; bit < 8; ++bit) {
      file[offset] ^= static_cast<uint8_t>(1 << bit);
      ASSERT_FALSE(read(file).ok()) << "byte " << offset << ", bit " << bit;
      file[offset] ^= static_cast<uint8_t>(1 << bit);
    }
  }
}

// --- hostile files whose checksums are right

/// What a reader may hand out, whatever the bytes were.
void expect_safe(const AdapterFile& file, const Bytes& bytes) {
  for (const AdapterTensor& tensor : file.tensors()) {
    uint64_t element_count = 1;
    for (const uint32_t dim : tensor.dims) element_count *= dim;
    ASSERT_EQ(tensor.numel, element_count);
    uint64_t count = 0;
    uint64_t next = 0;
    for (size_t j = 0; j < tensor.index.entries.size(); ++j, ++count) {
      ASSERT_GE(tensor.index.entries[j], next);
      next = uint64_t{tensor.index.entries[j]} + 1;
    }
    for (size_t r = 0; r < tensor.index.runs.size(); ++r) {
      const Run run = tensor.index.runs[r];
      ASSERT_GE(run.length, 1U);
      ASSERT_GE(run.start, next);
      next = uint64_t{run.start} + run.length;
      count += run.length;
    }
    ASSERT_LE(next, element_count);
    ASSERT_EQ(count, tensor.nnz());
    ASSERT_LE(tensor.value_bytes(), bytes.size());
  }
}

TEST(ReaderSurvives, ResealedMutations) {
  const std::vector<Bytes> seeds = {sample(), build_adapter(unbound_input())};
  std::mt19937 random(20261123);
  int accepted_count = 0;
  for (int round = 0; round < 60000; ++round) {
    Bytes file = seeds[random() % seeds.size()];
    const size_t mutation_count = 1 + random() % 3;
    for (size_t i = 0; i < mutation_count; ++i) {
      const size_t begin = random() % 4 == 0 ? 0 : 512;
      const size_t offset = begin + random() % (file.size() - begin);
      const uint8_t choices[] = {0,
                                 1,
                                 2,
                                 0x7F,
                                 0x80,
                                 0xFF,
                                 static_cast<uint8_t>(random()),
                                 static_cast<uint8_t>(file[offset] + 1)};
      file[offset] = choices[random() % std::size(choices)];
    }
    reseal(&file);
    const uint64_t before = allocated_bytes;
    const auto opened = read(file);
    ASSERT_LE(allocated_bytes - before, 8 * file.size() + 16384) << "seed round " << round;
    if (!opened.ok()) {
      ASSERT_GE(static_cast<int>(opened.error().status), 20) << opened.error().message;
      ASSERT_LT(static_cast<int>(opened.error().status), 50) << opened.error().message;
      continue;
    }
    ++accepted_count;
    expect_safe(*opened.value(), file);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(accepted_count, 100) << "the premise: some mutations are harmless";
}

TEST(ReaderSurvives, CountsThatAskForGigabytes) {
  for (const int codec : {1, 2, 3, 4, 5}) {
    Bytes file = sample();
    const size_t alpha = tensor_row(file, 0);
    put<uint8_t>(&file, alpha + 10, static_cast<uint8_t>(codec));
    put<uint32_t>(&file, alpha + 16, codec >= 4 ? 3 : 0);
    put<uint32_t>(&file, alpha + 28, codec >= 4 ? 0x55555555U : 0xFFFFFFFFU);
    put<uint64_t>(&file, alpha + 32, 0xFFFFFFFFU);
    put<uint32_t>(&file, alpha + 64, 65535);
    put<uint32_t>(&file, alpha + 68, 65537);
    reseal(&file);
    const uint64_t before = allocated_bytes;
    expect_refused(file, Status::BAD_LAYOUT, alpha + 32);
    EXPECT_LE(allocated_bytes - before, 8 * file.size() + 16384) << codec;
  }
}

}  // namespace
}  // namespace shira::testing
