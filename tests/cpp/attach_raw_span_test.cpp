// Tests of the region of caller-owned memory: gone, read-only and file-backed memory is refused.
// SPDX-License-Identifier: Apache-2.0
#include "attach/raw_span.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <vector>

#include "attach_fixtures.h"
#include "runtime_support.h"

namespace shira {
namespace {

/// What a region answers when the span is registered, and right after that.
Status check(const void* data, uint64_t size_bytes) {
  const Result<ProcessMaps> maps = ProcessMaps::read();
  EXPECT_TRUE(maps.ok());
  const auto* bytes = static_cast<const uint8_t*>(data);
  const auto region = make_raw_region();
  const Result<void> attached = region->attach(maps.value(), bytes, size_bytes);
  EXPECT_EQ(attached.ok(), attached.error().message.empty());
  if (attached.ok()) {
    EXPECT_TRUE(region->check(maps.value(), bytes, size_bytes).ok());
  }
  return attached.error().status;
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
  /// Puts another mapping in the place of one page.
  void remap(size_t page, int flags, int descriptor = -1, size_t file_page = 0) {
    ASSERT_NE(mmap(at(page), page_, PROT_READ | PROT_WRITE, MAP_FIXED | flags, descriptor,
                   static_cast<off_t>(file_page * page_)),
              MAP_FAILED);
  }
  /// Registers all four pages with `program_`.
  void add() {
    const std::vector<uint32_t> dims = {4, static_cast<uint32_t>(page_ / 4)};
    const Result<void> added =
        program_.add_tensor({"w", Dtype::f32, dims, at(0), make_raw_region(), {}});
    ASSERT_TRUE(added.ok()) << added.error().message;
  }
  Status status() { return program_.verify_base().error().status; }

  const size_t page_ = page_bytes();
  void* memory_ = nullptr;
  Program program_;
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
  add();
  EXPECT_EQ(status(), Status::OK) << "nor is it one without the paths";
  close(descriptor);
}

TEST_F(RawSpan, AFileMappedOverTheSpanIsNotWritten) {
  // Law I5: the file is no tensor's source, and no store may reach it either.
  const test::Bytes content(page_, 1);
  const test::TemporaryFile file(content, "victim.bin");
  map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  memset(memory_, 1, 4 * page_);
  add();
  const testing::LiveTensor base = testing::make_tensor(
      "w", Dtype::f32, {4, static_cast<uint32_t>(page_ / 4)}, test::Bytes(4 * page_, 1));
  const auto first_index = static_cast<uint32_t>(page_ / 4);
  const testing::TestAdapter adapter = testing::simple_adapter("x", base, {first_index}, {2});
  ASSERT_TRUE(program_.add_adapter(adapter.source, {}).ok());
  const int descriptor = open(file.path().c_str(), O_RDWR);
  remap(1, MAP_SHARED, descriptor);
  close(descriptor);
  EXPECT_EQ(program_.switch_to({{"x", 1}}).error().status, Status::DETACHED);
  EXPECT_TRUE(file.read() == content) << "a store reached the file";
}

TEST_F(RawSpan, ReusedMemoryIsDetached) {
  const test::TemporaryFile file(test::Bytes(8 * page_, 1), "weights.bin");
  const int descriptor = open(file.path().c_str(), O_RDWR);
  map(PROT_READ | PROT_WRITE, MAP_PRIVATE, descriptor);
  add();
  EXPECT_EQ(status(), Status::OK);
  *at(2) = 1;
  ASSERT_EQ(mprotect(at(2), page_, PROT_READ), 0);
  EXPECT_EQ(status(), Status::READ_ONLY);
  ASSERT_EQ(mprotect(at(2), page_, PROT_READ | PROT_WRITE), 0);
  EXPECT_EQ(status(), Status::OK) << "areas that the kernel splits and joins are the same memory";

  remap(2, MAP_PRIVATE | MAP_ANONYMOUS);
  EXPECT_EQ(status(), Status::DETACHED) << "anonymous memory";
  remap(2, MAP_PRIVATE, descriptor, 3);
  EXPECT_EQ(status(), Status::DETACHED) << "another place of the same file";
  remap(2, MAP_SHARED, descriptor, 2);
  EXPECT_EQ(status(), Status::DETACHED) << "the same place, shared";
  const test::TemporaryFile copy(test::Bytes(8 * page_, 1), "weights.bin");
  const int copy_descriptor = open(copy.path().c_str(), O_RDWR);
  remap(2, MAP_PRIVATE, copy_descriptor, 2);
  EXPECT_EQ(status(), Status::DETACHED) << "another file of the same content";
  close(copy_descriptor);
  remap(2, MAP_PRIVATE, descriptor, 2);
  EXPECT_EQ(status(), Status::OK);
  ASSERT_EQ(munmap(at(3), page_), 0);
  EXPECT_EQ(status(), Status::DETACHED);
  close(descriptor);
}

TEST_F(RawSpan, ASpanOfSeveralKindsOfMemoryIsRememberedPieceByPiece) {
  const int descriptor = memfd_create("weights", MFD_CLOEXEC);
  ASSERT_EQ(ftruncate(descriptor, static_cast<off_t>(4 * page_)), 0);
  map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  remap(1, MAP_SHARED, descriptor, 1);
  remap(2, MAP_SHARED, descriptor, 1);
  add();
  EXPECT_EQ(status(), Status::OK);
  remap(2, MAP_SHARED, descriptor, 2);
  EXPECT_EQ(status(), Status::DETACHED);
  remap(2, MAP_SHARED, descriptor, 1);
  EXPECT_EQ(status(), Status::OK);
  remap(1, MAP_PRIVATE | MAP_ANONYMOUS);
  EXPECT_EQ(status(), Status::DETACHED);
  remap(1, MAP_SHARED, descriptor, 1);
  remap(3, MAP_SHARED, descriptor, 3);
  EXPECT_EQ(status(), Status::DETACHED);
  close(descriptor);
}

}  // namespace
}  // namespace shira
