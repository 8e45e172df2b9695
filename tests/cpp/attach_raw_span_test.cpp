// Tests of the region of caller-owned memory: gone, read-only and file-backed memory is refused.
// SPDX-License-Identifier: Apache-2.0
#include "attach/raw_span.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <vector>

#include "attach_fixtures.h"

namespace shira {
namespace {

Status check(const void* data, uint64_t size_bytes) {
  const Result<ProcessMaps> maps = ProcessMaps::read();
  EXPECT_TRUE(maps.ok());
  const Result<void> result =
      make_raw_region()->check(maps.value(), static_cast<const uint8_t*>(data), size_bytes);
  EXPECT_EQ(result.ok(), result.error().message.empty());
  return result.error().status;
}

class RawSpan : public ::testing::Test {
 protected:
  void* map(int protection, int flags, int descriptor = -1) {
    memory_ = mmap(nullptr, 4 * page_, protection, flags, descriptor, 0);
    EXPECT_NE(memory_, MAP_FAILED);
    return memory_;
  }
  void TearDown() override {
    if (memory_ != nullptr) munmap(memory_, 4 * page_);
  }
  uint8_t* at(size_t page) { return static_cast<uint8_t*>(memory_) + page * page_; }

  const size_t page_ = page_bytes();
  void* memory_ = nullptr;
};

TEST_F(RawSpan, HeapStackAndAnonymousMemoryIsFine) {
  const std::vector<float> heap(100000);
  const float stack[16] = {};
  EXPECT_EQ(check(heap.data(), heap.size() * 4), Status::OK);
  EXPECT_EQ(check(stack, sizeof(stack)), Status::OK);
  map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  EXPECT_EQ(check(memory_, 4 * page_), Status::OK);
  EXPECT_FALSE(make_raw_region()->has_source());
}

TEST_F(RawSpan, ReadOnlyMemoryIsRefusedWithoutASignal) {
  static const float constants[] = {1.0F, 2.0F};
  EXPECT_EQ(check(constants, sizeof(constants)), Status::READ_ONLY);
  map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  ASSERT_EQ(mprotect(at(2), page_, PROT_READ), 0);
  EXPECT_EQ(check(memory_, 2 * page_), Status::OK);
  EXPECT_EQ(check(at(1), page_ + 1), Status::READ_ONLY);
  ASSERT_EQ(mprotect(at(2), page_, PROT_NONE), 0);
  EXPECT_EQ(check(memory_, 4 * page_), Status::READ_ONLY);
}

TEST_F(RawSpan, UnmappedMemoryIsDetached) {
  map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  ASSERT_EQ(munmap(at(2), page_), 0);
  EXPECT_EQ(check(memory_, 4 * page_), Status::DETACHED);
  EXPECT_EQ(check(memory_, 2 * page_), Status::OK);
  EXPECT_EQ(check(at(1), UINT64_MAX - 5), Status::DETACHED) << "the end wraps around";
}

TEST_F(RawSpan, StoresMustNotReachAFile) {
  const test::TemporaryFile file(test::Bytes(4 * page_, 1), "weights.bin");
  const int descriptor = open(file.path().c_str(), O_RDWR);
  map(PROT_READ | PROT_WRITE, MAP_SHARED, descriptor);
  EXPECT_EQ(check(memory_, 4 * page_), Status::READ_ONLY);
  munmap(memory_, 4 * page_);
  map(PROT_READ | PROT_WRITE, MAP_PRIVATE, descriptor);
  EXPECT_EQ(check(memory_, 4 * page_), Status::OK) << "a private mapping copies on write";
  close(descriptor);
}

TEST_F(RawSpan, SharedMemoryIsNoFile) {
  map(PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
  EXPECT_EQ(check(memory_, 4 * page_), Status::OK);
  munmap(memory_, 4 * page_);
  const int descriptor = memfd_create("weights", MFD_CLOEXEC);
  ASSERT_EQ(ftruncate(descriptor, static_cast<off_t>(4 * page_)), 0);
  map(PROT_READ | PROT_WRITE, MAP_SHARED, descriptor);
  EXPECT_EQ(check(memory_, 4 * page_), Status::OK);
  const auto begin = reinterpret_cast<uintptr_t>(memory_);
  const Result<ProcessMaps> without_paths = ProcessMaps::read_near({{begin, begin + 4 * page_}});
  EXPECT_TRUE(make_raw_region()->check(without_paths.value(), at(0), 4 * page_).ok());
  close(descriptor);
}

}  // namespace
}  // namespace shira
