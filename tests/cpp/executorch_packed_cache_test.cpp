// Tests of the file in memory that packed weights go into.
// SPDX-License-Identifier: Apache-2.0
#include "executorch/packed_cache.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

namespace shira {
namespace {

TEST(PackedCache, IsAnEmptyFileThatCanBeOpenedByItsPath) {
  const Result<PackedCache> cache = PackedCache::make();
  ASSERT_TRUE(cache.ok()) << cache.error().message;
  struct stat status{};
  ASSERT_EQ(stat(cache.value().path().c_str(), &status), 0);
  EXPECT_EQ(status.st_size, 0);
  EXPECT_EQ(access(cache.value().path().c_str(), R_OK | W_OK), 0);
}

// A mapping of it never loses a page, so that no store can fault.
TEST(PackedCache, KeepsItsSize) {
  const Result<PackedCache> cache = PackedCache::make();
  ASSERT_TRUE(cache.ok());
  ASSERT_EQ(ftruncate(cache.value().descriptor(), 8192), 0);
  ASSERT_EQ(ftruncate(cache.value().descriptor(), 4096), 0);
  cache.value().keep_size();
  EXPECT_NE(truncate(cache.value().path().c_str(), 0), 0);
  EXPECT_EQ(ftruncate(cache.value().descriptor(), 8192), 0) << "growing is the delegate's affair";
}

}  // namespace
}  // namespace shira
