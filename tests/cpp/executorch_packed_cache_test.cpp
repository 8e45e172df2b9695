// Tests of reading the index of packed weights: what XNNPACK writes, and what it should not.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include "executorch/packed_cache.h"

namespace shira {
namespace {

template <typename T>
std::string little(T number) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &number, sizeof(T));
  return bytes;
}

std::string entry(const std::string& name, uint64_t offset_bytes, uint64_t size_bytes) {
  return little(static_cast<uint32_t>(name.size())) + name + little(offset_bytes) +
         little(size_bytes) + little(uint32_t{7});
}

std::string footer(uint64_t index_offset, uint32_t entry_count, uint32_t magic = 0x58505743,
                   uint32_t version = 2) {
  return little(index_offset) + little(entry_count) + little(magic) + little(version);
}

const std::string kWeights(256, 'w');
const std::string kEntries = entry("first", 0, 128) + entry("second", 128, 128);

Result<std::vector<PackedEntry>> read(const std::string& content) {
  const Result<PackedCache> cache = PackedCache::make();
  EXPECT_TRUE(cache.ok());
  EXPECT_EQ(write(cache.value().descriptor(), content.data(), content.size()),
            static_cast<ssize_t>(content.size()));
  EXPECT_EQ(access(cache.value().path().c_str(), R_OK | W_OK), 0);
  return cache.value().read_index();
}

TEST(PackedCache, IsEmptyAtFirst) {
  const Result<std::vector<PackedEntry>> index = read("");
  ASSERT_TRUE(index.ok());
  EXPECT_TRUE(index.value().empty());
}

TEST(PackedCache, EntriesAreRead) {
  const auto index = read(kWeights + kEntries + footer(256, 2));
  ASSERT_TRUE(index.ok()) << index.error().message;
  ASSERT_EQ(index.value().size(), 2U);
  EXPECT_EQ(index.value()[1].name, "second");
  EXPECT_EQ(index.value()[1].offset_bytes, 128U);
  EXPECT_EQ(index.value()[1].size_bytes, 128U);
  EXPECT_EQ(index.value()[1].seed, 7U);
}

TEST(PackedCache, AMalformedIndexIsRefused) {
  const std::string outside = entry("first", 200, 57);
  const std::string wraps = entry("first", 8, UINT64_MAX);
  for (const std::string& content : {
           std::string("short"),
           kWeights + kEntries + footer(256, 2, 0x58505742),
           kWeights + kEntries + footer(256, 2, 0x58505743, 3),
           kWeights + kEntries + footer(256, 3),
           kWeights + kEntries + footer(UINT64_MAX, 2),
           kWeights + little(UINT32_MAX) + kEntries + footer(256, 1),
           kWeights + outside + footer(256, 1),
           kWeights + wraps + footer(256, 1),
       }) {
    const auto index = read(content);
    ASSERT_FALSE(index.ok());
    EXPECT_EQ(index.error().status, Status::BAD_PROGRAM_FILE);
  }
}

}  // namespace
}  // namespace shira
