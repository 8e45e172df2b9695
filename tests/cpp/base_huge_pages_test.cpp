// Huge pages: large arrays ask for them, and every range may be advised.
// SPDX-License-Identifier: Apache-2.0
#include "base/huge_pages.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "base/array.h"

namespace shira {
namespace {

/// The kernel's flags of the mapping that holds `address`; empty where there is no such file.
std::string mapping_flags(const void* address) {
  std::ifstream maps("/proc/self/smaps");
  std::string line;
  bool is_inside = false;
  while (std::getline(maps, line)) {
    unsigned long long begin = 0;
    unsigned long long end = 0;
    if (std::sscanf(line.c_str(), "%llx-%llx ", &begin, &end) == 2) {
      const auto number = reinterpret_cast<uintptr_t>(address);
      is_inside = number >= begin && number < end;
    }
    if (is_inside && line.rfind("VmFlags:", 0) == 0) return line + " ";
  }
  return "";
}

bool system_has_huge_pages() {
  return access("/sys/kernel/mm/transparent_hugepage/enabled", R_OK) == 0 &&
         access("/proc/self/smaps", R_OK) == 0;
}

TEST(HugePages, LargeArraysAskForThem) {
  if (!system_has_huge_pages()) GTEST_SKIP() << "this system has none";
  const auto large = Array<uint32_t>::make(4 * kHugePagesFromBytes / sizeof(uint32_t));
  ASSERT_TRUE(large.ok());
  const void* middle = large.value().data() + large.value().size() / 2;
  EXPECT_NE(mapping_flags(middle).find(" hg "), std::string::npos) << mapping_flags(middle);
}

TEST(HugePages, SmallArraysDoNot) {
  if (!system_has_huge_pages()) GTEST_SKIP() << "this system has none";
  // Large enough for a mapping of its own, which no other array has advised before.
  const auto small = Array<uint8_t>::make(kHugePagesFromBytes - 1);
  ASSERT_TRUE(small.ok());
  EXPECT_EQ(mapping_flags(small.value().data()).find(" hg "), std::string::npos);
}

TEST(HugePages, AdviceChangesNoByteOfAnyRange) {
  std::vector<uint8_t> bytes(1 << 16);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i * 7);
  const std::vector<uint8_t> before = bytes;
  for (const size_t offset : {0, 1, 4095, 4096, 9000}) {
    for (const size_t size_bytes : {0, 1, 4095, 4096, 8192, 50000}) {
      advise_huge_pages(bytes.data() + offset, size_bytes);
    }
  }
  EXPECT_EQ(bytes, before);
}

}  // namespace
}  // namespace shira
