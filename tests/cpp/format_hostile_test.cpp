// The .shb reader under attack: the catalogue of hostile files, damage anywhere, and what a file
// may make the reader allocate. SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <malloc.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "format/adapter_file.h"
#include "shb_builder.h"
#include "shb_hostile.h"
#include "shb_sample.h"

// --- every allocation of this program is counted, to bound what a file can make the reader
// allocate

namespace {
std::atomic<uint64_t> allocated_bytes{0};  // ever
std::atomic<uint64_t> live_bytes{0};
std::atomic<uint64_t> peak_bytes{0};

void* counted_allocation(size_t size_bytes) {
  void* memory = std::malloc(size_bytes == 0 ? 1 : size_bytes);
  allocated_bytes += size_bytes;
  live_bytes += malloc_usable_size(memory);
  if (live_bytes > peak_bytes) peak_bytes = live_bytes.load();
  return memory;
}

void counted_release(void* memory) {
  if (memory != nullptr) live_bytes -= malloc_usable_size(memory);
  std::free(memory);
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
void operator delete(void* memory) noexcept { counted_release(memory); }
void operator delete[](void* memory) noexcept { counted_release(memory); }
void operator delete(void* memory, size_t) noexcept { counted_release(memory); }
void operator delete[](void* memory, size_t) noexcept { counted_release(memory); }

namespace shira::testing {
namespace {

/// What opening may allocate in all, over its whole course: the bytes of the file, what is kept of
/// each row, 8 bytes per entry and 64 KiB.
uint64_t allocation_bound(const Bytes& file) {
  uint64_t entry_count = 0;
  const uint64_t row_count = file.size() < 256 ? 0 : get<uint32_t>(file, 48);
  for (uint64_t i = 0; i < row_count && section_row(2) <= file.size(); ++i) {
    const uint64_t row = get<uint64_t>(file, section_row(1) + 8) + 128 * i;
    if (row > file.size() - 128) break;
    entry_count += std::min<uint64_t>(get<uint64_t>(file, row + 24), 8 * file.size());
  }
  return 9 * file.size() + 8 * entry_count + 65536;
}

// --- the catalogue

TEST(HostileFiles, AreRefusedForTheRightReasonAtTheRightPlace) {
  const std::vector<HostileFile> files = hostile_files();
  EXPECT_GT(files.size(), 300U);
  const OpenOptions options = cryptography_available() ? hostile_sources() : OpenOptions{};
  for (const HostileFile& file : files) {
    SCOPED_TRACE(file.what);
    if (file.refers && !cryptography_available()) continue;
    const uint64_t before = allocated_bytes;
    const auto opened = read(file.bytes, options);
    EXPECT_LE(allocated_bytes - before, allocation_bound(file.bytes));
    ASSERT_FALSE(opened.ok());
    const Error& error = opened.error();
    EXPECT_STREQ(status_name(error.status), status_name(file.status)) << error.message;
    EXPECT_EQ(error.offset_bytes, file.offset) << error.message;
    EXPECT_EQ(error.tensor, file.tensor) << error.message;
    EXPECT_EQ(error.file, "test.shb");
    EXPECT_FALSE(error.message.empty());
  }
}

/// A new status of the format needs a file that provokes it.
TEST(HostileFiles, ProvokeEveryStatusOfTheFormat) {
  std::set<Status> elsewhere = {Status::DIGEST_MISMATCH, Status::BAD_PROGRAM_FILE};
  for (const HostileFile& file : hostile_files()) elsewhere.insert(file.status);
  const Status all[] = {
#define X(number, name, parent, text) Status::name,
#include "shira/status.def"
#undef X
  };
  for (const Status status : all) {
    const int number = static_cast<int>(status);
    if (number < 20 || number >= 50) continue;
    EXPECT_EQ(elsewhere.count(status), 1U) << status_name(status);
  }
}

// --- damage anywhere

std::vector<Bytes> good_files() {
  return {sample(), build_adapter(unbound_input()), pack(), build_adapter(derived_input())};
}

TEST(Damage, EveryTruncationIsNoticed) {
  for (const Bytes& good : good_files()) {
    ASSERT_TRUE(read(good).ok());
    for (size_t size = 0; size < good.size(); ++size) {
      const auto opened = read(Bytes(good.begin(), good.begin() + static_cast<ptrdiff_t>(size)));
      ASSERT_FALSE(opened.ok()) << size;
      ASSERT_EQ(opened.error().status, Status::TRUNCATED) << size << ": " << opened.error().message;
      ASSERT_EQ(opened.error().offset_bytes, size < 256 ? size : 16U);
    }
  }
  EXPECT_EQ(AdapterFile::from_bytes(nullptr, 0, "nothing").error().status, Status::TRUNCATED);
}

TEST(Damage, EveryTruncationThatOwnsUpToItIsNoticed) {
  for (const Bytes& good : good_files()) {
    const size_t table_end = section_row(get<uint32_t>(good, 40));
    for (size_t size = 256; size < good.size(); ++size) {
      Bytes file(good.begin(), good.begin() + static_cast<ptrdiff_t>(size));
      put<uint64_t>(&file, 16, size);
      put_crc_of_header(&file);
      const auto opened = read(file);
      ASSERT_FALSE(opened.ok()) << size;
      ASSERT_EQ(opened.error().status, size < table_end ? Status::TRUNCATED : Status::BAD_LAYOUT)
          << size;
    }
  }
}

TEST(Damage, EveryFlippedBitIsNoticed) {
  for (Bytes file : good_files()) {
    for (size_t offset = 0; offset < file.size(); ++offset) {
      for (int bit = 0; bit < 8; ++bit) {
        file[offset] ^= static_cast<uint8_t>(1 << bit);
        ASSERT_FALSE(read(file).ok()) << "byte " << offset << ", bit " << bit;
        file[offset] ^= static_cast<uint8_t>(1 << bit);
      }
    }
    ASSERT_TRUE(read(file).ok());
  }
}

// --- damage whose checksums are right

/// What a reader may hand out, whatever the bytes were.
void expect_safe(const AdapterTensor& tensor) {
  uint64_t element_count = 1;
  for (const uint32_t dim : tensor.dims) element_count *= dim;
  ASSERT_EQ(tensor.numel, element_count);
  ASSERT_LE(tensor.nnz, element_count);
  ASSERT_NE(tensor.index == nullptr, !tensor.rule.has_value());
  ASSERT_EQ(reinterpret_cast<uintptr_t>(tensor.values) % 8, 0U);
  uint8_t last = 0;  // every value can be read
  for (uint64_t i = 0; i < tensor.nnz * dtype_bytes(tensor.value_dtype); ++i) {
    last ^= tensor.values[i];
  }
  (void)last;
  if (!tensor.index) return;
  uint64_t count = 0;
  uint64_t next = 0;
  for (size_t j = 0; j < tensor.index->entries.size(); ++j, ++count) {
    ASSERT_GE(tensor.index->entries[j], next);
    next = uint64_t{tensor.index->entries[j]} + 1;
  }
  for (size_t r = 0; r < tensor.index->runs.size(); ++r) {
    const Run run = tensor.index->runs[r];
    ASSERT_GE(run.length, 1U);
    ASSERT_GE(run.start, next + (r > 0 ? 1 : 0)) << "touching runs are one";
    next = uint64_t{run.start} + run.length;
    count += run.length;
  }
  ASSERT_LE(next, element_count);
  ASSERT_EQ(count, tensor.nnz);
  ASSERT_EQ(count, tensor.index->entry_count);
}

void expect_safe(const AdapterFile& file) {
  for (const Adapter& adapter : file.adapters()) {
    for (size_t i = 0; i < adapter.tensors.size(); ++i) {
      if (i > 0) {
        ASSERT_LT(adapter.tensors[i - 1].name, adapter.tensors[i].name);
      }
      expect_safe(adapter.tensors[i]);
    }
  }
}

/// Changes a few bytes of `file` into likely trouble.
void mutate(std::mt19937* random, Bytes* file) {
  const size_t mutation_count = 1 + (*random)() % 3;
  for (size_t i = 0; i < mutation_count; ++i) {
    const size_t table_end = section_row(get<uint32_t>(*file, 40) % 65);
    const size_t begin = (*random)() % 4 == 0 ? 0 : std::min(table_end, file->size() - 1);
    const size_t offset = begin + (*random)() % (file->size() - begin);
    const uint8_t choices[] = {0,
                               1,
                               2,
                               0x7F,
                               0x80,
                               0xFF,
                               static_cast<uint8_t>((*random)()),
                               static_cast<uint8_t>((*file)[offset] + 1),
                               static_cast<uint8_t>((*file)[offset] - 1)};
    (*file)[offset] = choices[(*random)() % std::size(choices)];
  }
}

TEST(Damage, ResealedMutationsAreRefusedOrSafe) {
  const std::vector<Bytes> seeds = good_files();
  std::mt19937 random(20261123);
  int accepted_count = 0;
  for (int round = 0; round < 60000; ++round) {
    Bytes file = seeds[random() % seeds.size()];
    mutate(&random, &file);
    reseal(&file);
    OpenOptions options;
    options.tier_count = random() % 2;
    const uint64_t before = allocated_bytes;
    const auto opened = read(file, options);
    ASSERT_LE(allocated_bytes - before, allocation_bound(file)) << "round " << round;
    if (!opened.ok()) {
      const int status = static_cast<int>(opened.error().status);
      ASSERT_TRUE((status >= 20 && status < 50) || opened.error().status == Status::MISSING_INDEX ||
                  opened.error().status == Status::NO_CRYPTOGRAPHY)
          << opened.error().message;
      continue;
    }
    ++accepted_count;
    expect_safe(*opened.value());
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(accepted_count, 100) << "the premise: some mutations are harmless";
}

// --- memory

/// The most that opening holds at a time, besides the bytes of the file.
uint64_t peak_of_opening(const Bytes& file, uint32_t tier_count = 0) {
  OpenOptions options;
  options.tier_count = tier_count;
  const uint64_t before = live_bytes;
  peak_bytes = before;
  const auto opened = read(file, options);
  EXPECT_TRUE(opened.ok()) << opened.error().message;
  return peak_bytes - before - file.size();
}

TEST(Memory, IsBoundedByTheNumberOfEntries) {
  constexpr uint32_t kCount = 200000;
  for (const IndexCodec codec :
       {IndexCodec::gaps8, IndexCodec::gaps16, IndexCodec::rice, IndexCodec::runs}) {
    for (const uint32_t step : {1U, 2U, 3U}) {  // one run, or nothing but runs of one
      for (const ValueCodec values :
           {ValueCodec::q8, ValueCodec::q4, ValueCodec::q2, ValueCodec::q1}) {
        SCOPED_TRACE(std::string(index_codec_name(codec)) + " " + value_codec_name(values));
        AdapterInput input;
        input.tensors = {
            scaled_tensor("w", Dtype::f16, {3 * kCount}, codec, stride(0, step, kCount), values)};
        EXPECT_LE(peak_of_opening(build_adapter(input)), 8 * kCount + 65536);
      }
    }
  }
}

/// Tiers are merged tensor by tensor, and what was merged is let go.
TEST(Memory, OfTiersIsThatOfOneTensorMore) {
  constexpr uint32_t kCount = 20000;
  constexpr uint32_t kTensorCount = 16;
  FileInput input;
  input.tier_count = 2;
  input.adapters.resize(1);
  for (uint32_t i = 0; i < kTensorCount; ++i) {
    for (const uint32_t tier : {0U, 1U}) {
      TensorInput row =
          scaled_tensor("w" + std::to_string(i), Dtype::f16, {4 * kCount}, IndexCodec::gaps8,
                        stride(2 * tier, 4, kCount), ValueCodec::q4);
      row.tier = static_cast<uint8_t>(tier);
      row.shares_index = false;
      input.adapters[0].tensors.push_back(row);
    }
  }
  const uint64_t entry_count = uint64_t{2} * kCount * kTensorCount;
  EXPECT_LE(peak_of_opening(build_file(input)),
            8 * entry_count + 8 * entry_count / kTensorCount + 65536);
  EXPECT_LE(peak_of_opening(build_file(input), 1), 8 * entry_count / 2 + 65536);
}

}  // namespace
}  // namespace shira::testing
