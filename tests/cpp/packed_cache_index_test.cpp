// The packed cache's index: a real one, and every way in which one can be wrong.
// SPDX-License-Identifier: Apache-2.0
#include "packed/cache_index.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "packed/calibrate.h"
#include "packed_cache_builder.h"
#include "packed_fixtures.h"

namespace shira {
namespace {

using test::build_cache;
using test::Bytes;
using test::CacheInput;

constexpr uint64_t kMax64 = UINT64_MAX;

Result<PackedCacheIndex> read(const Bytes& file) {
  return PackedCacheIndex::read(file.data(), file.size(), "packed.cache");
}

TEST(PackedCacheIndex, ReadsWhatExecuTorchWrote) {
  const Bytes file = test::read_file(test::packed_data_path("real.cache"));
  const auto index = read(file);
  ASSERT_TRUE(index.ok()) << index.error().message;
  ASSERT_EQ(index.value().entries().size(), 1U);
  const PackedCacheEntry& entry = index.value().entries()[0];
  EXPECT_EQ(entry.name.size(), 128U);  // two SHA-256
  EXPECT_EQ(entry.offset_bytes, 0U);
  const test::PackedFixture fixture = test::load_packed_fixture("int4_group");
  const Bytes& packed = fixture.targets.at("x86_avx512_vnni").base;
  ASSERT_EQ(entry.size_bytes, packed.size());
  EXPECT_EQ(Bytes(file.begin(), file.begin() + static_cast<ptrdiff_t>(packed.size())), packed);
  EXPECT_TRUE(
      calibrate(fixture.base_matrix(), file.data() + entry.offset_bytes, entry.size_bytes).ok());
}

TEST(PackedCacheIndex, FindsEntriesByNameAndPrefix) {
  const auto index = read(build_cache({})).value();
  ASSERT_EQ(index.entries().size(), 3U);
  EXPECT_EQ(index.find("ab")->offset_bytes, 1024U);
  EXPECT_EQ(index.find("ab")->size_bytes, 512U);
  EXPECT_EQ(index.find("ab")->seed, 7U);
  EXPECT_EQ(index.find("abc")->offset_bytes, 2048U);
  EXPECT_EQ(index.find("a"), nullptr);
  EXPECT_EQ(index.find("abcd"), nullptr);
  EXPECT_EQ(index.find("c"), nullptr);
  using Range = std::pair<size_t, size_t>;
  EXPECT_EQ(index.starting_with("a"), Range(0, 2));
  EXPECT_EQ(index.starting_with("abc"), Range(1, 2));
  EXPECT_EQ(index.starting_with("b"), Range(2, 3));
  EXPECT_EQ(index.starting_with(""), Range(0, 3));
  EXPECT_EQ(index.starting_with("aa"), Range(0, 0));
}

TEST(PackedCacheIndex, AFileIntoWhichNothingWasPackedHasNoEntries) {
  EXPECT_TRUE(read({}).value().entries().empty());
  CacheInput none;
  none.entries.clear();
  EXPECT_TRUE(read(build_cache(none)).value().entries().empty());
}

// Loading a second method leaves the first index between the weights.
TEST(PackedCacheIndex, OnlyTheLastIndexCounts) {
  Bytes file = build_cache({});
  file.resize(8192, 0);
  CacheInput second;
  second.data_bytes = 8192 + 64;
  second.entries.push_back({"later", 8192, 64});
  const Bytes tail = build_cache(second);
  file.insert(file.end(), tail.begin() + 8192, tail.end());
  EXPECT_EQ(read(file).value().entries().size(), 4U);
}

struct Case {
  const char* what;
  Status status;
  uint64_t offset_bytes;
  const char* words;
  std::function<void(CacheInput*)> damage;
};

// In the sample, the weights end at 4096; entry b has its name there + 4, its offset at + 5; entry
// ab begins at 4121, abc at 4147; the trailer begins at 4174.
constexpr uint64_t kTrailer = 4174;

const std::vector<Case>& catalogue() {
  static const std::vector<Case> kCases = {
      {"magic 0", Status::BAD_MAGIC, kTrailer + 12, "does not end as",
       [](auto* f) { f->magic = 0; }},
      {"magic of the other byte order", Status::BAD_MAGIC, kTrailer + 12, "does not end as",
       [](auto* f) { f->magic = 0x43575058; }},
      {"version 1", Status::UNSUPPORTED_VERSION, kTrailer + 16, "version 1, not 2",
       [](auto* f) { f->version = 1; }},
      {"version 3", Status::UNSUPPORTED_VERSION, kTrailer + 16, "version 3, not 2",
       [](auto* f) { f->version = 3; }},
      {"index behind its end", Status::BAD_LAYOUT, kTrailer, "begins at byte 4175",
       [](auto* f) { f->index_start = kTrailer + 1; }},
      {"index at the end of the numbers", Status::BAD_LAYOUT, kTrailer, "begins at byte",
       [](auto* f) { f->index_start = kMax64 - 1; }},
      {"index at the trailer", Status::BAD_COUNT, kTrailer + 8, "3 entries do not fit",
       [](auto* f) { f->index_start = kTrailer; }},
      {"index in the middle of an entry", Status::BAD_NAME, 4098, "bytes, not 1 to 4096",
       [](auto* f) { f->index_start = 4098; }},
      {"index before the entries", Status::TRUNCATED, 4095, "needs 370 bytes, and the index has 79",
       [](auto* f) { f->index_start = 4095; }},
      {"an index from byte 0", Status::BAD_NAME, 0, "a name has",
       [](auto* f) { f->index_start = 0; }},
      {"one entry more", Status::TRUNCATED, 4192, "needs 24 bytes, and the index has 0 left",
       [](auto* f) {
         f->extra_entry_count = 1;
         f->entries[0].name = std::string(19, 'b');
       }},
      {"a name of all that is left", Status::TRUNCATED, 4147,
       "needs 27 bytes, and the index has 24",
       [](auto* f) {
         f->entries.pop_back();
         f->extra_entry_count = 1;
         f->gap = {3, 0, 0, 0, 'a', 'b', 'c', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
       }},
      {"2^32 - 1 entries", Status::BAD_COUNT, kTrailer + 8, "4294967295 entries do not fit",
       [](auto* f) { f->extra_entry_count = 0xFFFFFFFFLL - 3; }},
      {"one entry fewer", Status::TRAILING_BYTES, 4147, "27 bytes follow the last of 2",
       [](auto* f) { f->extra_entry_count = -1; }},
      {"no entry counted", Status::TRAILING_BYTES, 4096, "78 bytes follow the last of 0",
       [](auto* f) { f->extra_entry_count = -3; }},
      {"a byte between entries and trailer", Status::TRAILING_BYTES, kTrailer, "1 bytes follow",
       [](auto* f) { f->gap = {0}; }},
      {"an empty name", Status::BAD_NAME, 4096, "0 bytes, not 1",
       [](auto* f) { f->entries[0].name = ""; }},
      {"a name of 4097 bytes", Status::BAD_NAME, 4096, "4097 bytes, not 1",
       [](auto* f) { f->entries[0].name = std::string(4097, 'n'); }},
      {"a zero byte in a name", Status::BAD_NAME, 4126, "the byte 0",
       [](auto* f) { f->entries[1].name = std::string("a\0", 2); }},
      {"a space in a name", Status::BAD_NAME, 4100, "the byte 32",
       [](auto* f) { f->entries[0].name = " "; }},
      {"a byte of no character", Status::BAD_NAME, 4100, "the byte 255",
       [](auto* f) { f->entries[0].name = "\xFF"; }},
      {"a name that is there twice", Status::BAD_NAME, 4096, "two entries are named ab",
       [](auto* f) { f->entries[2].name = "ab"; }},
      {"an entry behind the weights", Status::BAD_LAYOUT, 4101, "from byte 4096 on",
       [](auto* f) { f->entries[0].offset_bytes = 4096; }},
      {"an entry that runs into the index", Status::BAD_LAYOUT, 4152 + 2, "the weights end at 4096",
       [](auto* f) { f->entries[2].size_bytes = 2049; }},
      {"an entry of all bytes there could be", Status::BAD_LAYOUT, 4154, "18446744073709551615",
       [](auto* f) { f->entries[2].size_bytes = kMax64; }},
      {"an end that overflows to inside", Status::BAD_LAYOUT, 4154,
       "from byte 18446744073709549568",
       [](auto* f) { f->entries[2].offset_bytes = kMax64 - 2047; }},
      {"an empty entry", Status::BAD_LAYOUT, 4101, "has 0 bytes",
       [](auto* f) { f->entries[0].size_bytes = 0; }},
      {"a misaligned entry", Status::BAD_LAYOUT, 4101, "no multiple of 64",
       [](auto* f) { f->entries[0].offset_bytes = 32; }},
      {"entries that overlap by a byte", Status::BAD_LAYOUT, 1024, "b and ab overlap",
       [](auto* f) { f->entries[0].size_bytes = 1025; }},
      {"two entries of the same bytes", Status::BAD_LAYOUT, 0, "overlap",
       [](auto* f) { f->entries[1].offset_bytes = 0; }},
      {"an entry inside another", Status::BAD_LAYOUT, 2112, "abc and ab overlap",
       [](auto* f) { f->entries[1] = {"ab", 2112, 64}; }},
  };
  return kCases;
}

TEST(PackedCacheIndex, RefusesTheCatalogue) {
  ASSERT_EQ(build_cache({}).size(), kTrailer + 20);
  for (const Case& hostile : catalogue()) {
    CacheInput input;
    hostile.damage(&input);
    const auto index = read(build_cache(input));
    ASSERT_FALSE(index.ok()) << hostile.what;
    const Error& error = index.error();
    EXPECT_EQ(error.status, hostile.status) << hostile.what << ": " << error.message;
    EXPECT_EQ(error.offset_bytes, hostile.offset_bytes) << hostile.what << ": " << error.message;
    EXPECT_NE(error.message.find(hostile.words), std::string::npos)
        << hostile.what << ": " << error.message;
    EXPECT_EQ(error.file, "packed.cache");
  }
}

TEST(PackedCacheIndex, TakesWhatTouchesALimit) {
  CacheInput input;
  input.entries = {{std::string(4096, '~'), 0, 64}, {"!", 64, 4096 - 64}};
  EXPECT_TRUE(read(build_cache(input)).ok());
}

TEST(PackedCacheIndex, RefusesEveryTruncation) {
  const Bytes file = build_cache({});
  for (size_t size = 1; size < file.size(); ++size) {
    const auto index = read(Bytes(file.begin(), file.begin() + static_cast<ptrdiff_t>(size)));
    ASSERT_FALSE(index.ok()) << size;
    EXPECT_EQ(index.error().status, size < 20 ? Status::TRUNCATED : Status::BAD_MAGIC) << size;
  }
}

// What stays readable has entries that lie in the file.
TEST(PackedCacheIndex, SurvivesEveryFlippedBitOfTheIndex) {
  const Bytes file = build_cache({});
  unsigned refused_count = 0;
  for (size_t bit = 8 * 4096; bit < 8 * file.size(); ++bit) {
    Bytes damaged = file;
    damaged[bit / 8] ^= static_cast<uint8_t>(1U << bit % 8);
    const auto index = read(damaged);
    if (!index.ok()) {
      ++refused_count;
      EXPECT_LT(index.error().offset_bytes, file.size()) << bit;
      continue;
    }
    for (const PackedCacheEntry& entry : index.value().entries())
      EXPECT_LE(entry.offset_bytes + entry.size_bytes, 4096U) << bit;
  }
  // Left are the seeds, other names, and sizes and offsets with room.
  EXPECT_GT(refused_count, 8 * (file.size() - 4096) / 2);
}

}  // namespace
}  // namespace shira
