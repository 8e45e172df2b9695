// Tests of the /proc/self/maps snapshot: parsing of every kind of line, look-up, and the live one.
// SPDX-License-Identifier: Apache-2.0
#include "base/process_maps.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <vector>

#include "temporary_folder.h"

namespace shira {
namespace {

ProcessMaps parsed(std::string_view text) {
  Result<ProcessMaps> maps = ProcessMaps::parse(text);
  EXPECT_TRUE(maps.ok());
  return std::move(maps.value());
}

TEST(ProcessMaps, ParsesEveryField) {
  const ProcessMaps maps = parsed(
      "7fb859e03000-7fb859fff000 r--s 001fc000 fe:1a 131073                     /data/model.pte\n");
  ASSERT_EQ(maps.areas().size(), 1U);
  const MemoryArea& area = maps.areas()[0];
  EXPECT_EQ(area.begin, 0x7fb859e03000U);
  EXPECT_EQ(area.end, 0x7fb859fff000U);
  EXPECT_TRUE(area.readable);
  EXPECT_FALSE(area.writable);
  EXPECT_TRUE(area.shared);
  EXPECT_EQ(area.file_offset_bytes, 0x1fc000U);
  EXPECT_EQ(area.device, makedev(0xfe, 0x1a));
  EXPECT_EQ(area.inode, 131073U);
  EXPECT_EQ(area.path, "/data/model.pte");
}

TEST(ProcessMaps, KeepsPathsAsTheKernelPrintsThem) {
  const ProcessMaps maps = parsed(
      "1000-2000 rw-p 00000000 00:00 0 \n"
      "2000-3000 rw-p 00000000 00:00 0\n"
      "3000-4000 rw-p 00000000 00:00 0                          [heap]\n"
      "4000-5000 r--s 00000000 fe:01 9   /a path  with blanks.pte\n"
      "5000-6000 r--s 00000000 fe:01 9   /gone.pte (deleted)\n"
      "6000-7000 r--s 00000000 fe:01 9   /new\\012line.pte\n"
      "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0  [vsyscall]");
  ASSERT_EQ(maps.areas().size(), 7U);
  EXPECT_EQ(maps.areas()[0].path, "");
  EXPECT_EQ(maps.areas()[1].path, "");
  EXPECT_EQ(maps.areas()[2].path, "[heap]");
  EXPECT_EQ(maps.areas()[3].path, "/a path  with blanks.pte");
  EXPECT_EQ(maps.areas()[4].path, "/gone.pte (deleted)");
  EXPECT_EQ(maps.areas()[5].path, "/new\\012line.pte");
  EXPECT_FALSE(maps.areas()[6].readable);
}

TEST(ProcessMaps, SkipsMalformedLines) {
  const ProcessMaps maps = parsed(
      "\n"
      "garbage\n"
      "1000 r--s 00000000 fe:01 9 /no/end\n"
      "2000-1000 r--s 00000000 fe:01 9 /backwards\n"
      "11112222333344445-11112222333344446 r--s 0 fe:01 9 /too/large\n"
      "1000-2000 r--  00000000 fe:01\n"
      "1000-2000 rw\n"
      "1000-2000 rw-p -1 fe:01 9 /negative\n"
      "1000-2000 rw-p 00000000 fe:01 9 /good\n"
      "1800-2800 rw-p 00000000 fe:01 9 /overlaps\n");
  ASSERT_EQ(maps.areas().size(), 1U);
  EXPECT_EQ(maps.areas()[0].path, "/good");
}

TEST(ProcessMaps, EveryPrefixOfAListingParses) {
  const std::string text =
      "1000-2000 r--s 00000000 fe:01 9   /a\n2000-3000 rw-p 00001000 fe:01 9   /b\n";
  for (size_t length = 0; length <= text.size(); ++length) {
    EXPECT_LE(parsed(text.substr(0, length)).areas().size(), 2U);
  }
}

TEST(ProcessMaps, FindsTheAreaOfAnAddress) {
  const ProcessMaps maps = parsed(
      "1000-2000 r--p 00000000 fe:01 9 /a\n"
      "2000-3000 rw-p 00000000 fe:01 9 /b\n"
      "5000-6000 rw-p 00000000 fe:01 9 /c\n");
  EXPECT_EQ(maps.find(0xfff), nullptr);
  EXPECT_EQ(maps.find(0x1000)->path, "/a");
  EXPECT_EQ(maps.find(0x1fff)->path, "/a");
  EXPECT_EQ(maps.find(0x2000)->path, "/b");
  EXPECT_EQ(maps.find(0x3000), nullptr);
  EXPECT_EQ(maps.find(0x5fff)->path, "/c");
  EXPECT_EQ(maps.find(0x6000), nullptr);
  EXPECT_EQ(parsed("").find(0x1000), nullptr);
}

TEST(ProcessMaps, SeesAMappingComeAndGo) {
  const size_t length = 2 * page_bytes();
  void* memory = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  const auto begin = reinterpret_cast<uintptr_t>(memory);
  const Result<ProcessMaps> before = ProcessMaps::read();
  ASSERT_TRUE(before.ok());
  ASSERT_NE(before.value().find(begin), nullptr);
  EXPECT_TRUE(before.value().find(begin)->writable);
  ASSERT_EQ(mprotect(memory, page_bytes(), PROT_READ), 0);
  const Result<ProcessMaps> after = ProcessMaps::read();
  ASSERT_NE(after.value().find(begin), nullptr);
  EXPECT_FALSE(after.value().find(begin)->writable);
  EXPECT_TRUE(after.value().find(begin + page_bytes())->writable);
  ASSERT_EQ(munmap(memory, length), 0);
  EXPECT_EQ(ProcessMaps::read().value().find(begin), nullptr);
}

TEST(ProcessMaps, AListingLargerThanTheFirstBufferIsReadWhole) {
  // Alternating protections keep the kernel from merging the pages into one area.
  constexpr size_t kPages = 4000;
  void* memory =
      mmap(nullptr, kPages * page_bytes(), PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  const auto begin = reinterpret_cast<uintptr_t>(memory);
  for (size_t page = 0; page < kPages; page += 2) {
    ASSERT_EQ(mprotect(reinterpret_cast<void*>(begin + page * page_bytes()), page_bytes(),
                       PROT_READ | PROT_WRITE),
              0);
  }
  const auto start = std::chrono::steady_clock::now();
  Result<ProcessMaps> maps = ProcessMaps::read();
  const auto end = std::chrono::steady_clock::now();
  ASSERT_TRUE(maps.ok());
  ASSERT_GE(maps.value().areas().size(), kPages);
  for (size_t page = 0; page < kPages; ++page) {
    const MemoryArea* area = maps.value().find(begin + page * page_bytes());
    ASSERT_NE(area, nullptr);
    EXPECT_EQ(area->writable, page % 2 == 0);
  }
  RecordProperty("areas", static_cast<int>(maps.value().areas().size()));
  RecordProperty(
      "microseconds",
      static_cast<int>(std::chrono::duration_cast<std::chrono::microseconds>(end - start).count()));
  ASSERT_EQ(munmap(memory, kPages * page_bytes()), 0);
}

TEST(ProcessMaps, ReadNearTellsTheSameAsTheWholeListing) {
  // A file's pages of three kinds with a hole between, and the areas of this very program.
  const test::TemporaryFolder folder;
  const int descriptor = open((folder / "pages").c_str(), O_RDWR | O_CREAT, 0600);
  ASSERT_GE(descriptor, 0);
  ASSERT_EQ(ftruncate(descriptor, static_cast<off_t>(8 * page_bytes())), 0);
  void* memory = mmap(nullptr, 7 * page_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE, descriptor,
                      static_cast<off_t>(page_bytes()));
  ASSERT_NE(memory, MAP_FAILED);
  const auto begin = reinterpret_cast<uintptr_t>(memory);
  const auto page = [&](size_t i) { return begin + i * page_bytes(); };
  ASSERT_EQ(mprotect(reinterpret_cast<void*>(page(1)), page_bytes(), PROT_READ), 0);
  ASSERT_EQ(munmap(reinterpret_cast<void*>(page(3)), page_bytes()), 0);
  ASSERT_NE(mmap(reinterpret_cast<void*>(page(5)), page_bytes(), PROT_READ, MAP_SHARED | MAP_FIXED,
                 descriptor, 0),
            MAP_FAILED);

  const Result<ProcessMaps> whole = ProcessMaps::read();
  const auto code = reinterpret_cast<uintptr_t>(&page_bytes);
  const Result<ProcessMaps> near = ProcessMaps::read_near(
      {{page(5), page(7)}, {page(0) + 1, page(4) + 1}, {code, code + 1}, {page(3), page(3) + 1}});
  ASSERT_TRUE(whole.ok());
  ASSERT_TRUE(near.ok());
  std::vector<uintptr_t> addresses = {code};
  for (size_t i = 0; i < 7; ++i) addresses.push_back(page(i));
  for (const uintptr_t address : addresses) {
    const MemoryArea* expected = whole.value().find(address);
    const MemoryArea* found = near.value().find(address);
    ASSERT_EQ(found == nullptr, expected == nullptr);
    ASSERT_EQ(expected == nullptr, address == page(3));
    if (expected == nullptr) continue;
    EXPECT_EQ(found->begin, expected->begin);
    EXPECT_EQ(found->end, expected->end);
    EXPECT_EQ(found->readable, expected->readable);
    EXPECT_EQ(found->writable, expected->writable);
    EXPECT_EQ(found->shared, expected->shared);
    EXPECT_EQ(found->file_offset_bytes, expected->file_offset_bytes);
    EXPECT_EQ(found->device, expected->device);
    EXPECT_EQ(found->inode, expected->inode);
  }
  ASSERT_EQ(munmap(memory, 7 * page_bytes()), 0);
  close(descriptor);
}

TEST(ProcessMaps, PageSizeIsAPowerOfTwo) {
  EXPECT_GE(page_bytes(), size_t{4096});
  EXPECT_EQ(page_bytes() & (page_bytes() - 1), 0U);
}

}  // namespace
}  // namespace shira
