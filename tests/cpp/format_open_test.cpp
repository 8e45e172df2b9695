// Opening .shb files: short reads, interruptions, and what is not a regular file.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <new>
#include <string>
#include <utility>

#include "format/adapter_file.h"
#include "shb_builder.h"
#include "shb_sample.h"
#include "temporary_folder.h"

namespace {

/// How the next calls of pread() behave; a test sets it and takes it back.
struct ReadBehaviour {
  size_t piece_bytes = 0;  // 0: as the system has it
  bool interrupted = false;
  int fails_with = 0;
  int64_t ends_after_bytes = -1;  // as if the file had become shorter
  int call_count = 0;
};
ReadBehaviour behaviour;

/// Called once, when an array of so many bytes is allocated.
struct AllocationHook {
  size_t size_bytes = 0;
  std::function<void()> call;
};
AllocationHook allocation_hook;

}  // namespace

void* operator new[](size_t size_bytes, const std::nothrow_t& /*tag*/) noexcept {
  if (allocation_hook.call && size_bytes == allocation_hook.size_bytes)
    std::exchange(allocation_hook.call, nullptr)();
  return std::malloc(size_bytes);
}
void* operator new[](size_t size_bytes) {
  void* memory = std::malloc(size_bytes);
  if (memory == nullptr) std::abort();
  return memory;
}
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t /*size_bytes*/) noexcept { std::free(memory); }

/// Takes the place of the C library's in this program.
extern "C" ssize_t pread(int file, void* out, size_t size_bytes, off_t offset_bytes) {
  ++behaviour.call_count;
  if (behaviour.interrupted && behaviour.call_count % 2 == 1) {
    errno = EINTR;
    return -1;
  }
  if (behaviour.fails_with != 0) {
    errno = behaviour.fails_with;
    return -1;
  }
  if (behaviour.piece_bytes != 0 && size_bytes > behaviour.piece_bytes)
    size_bytes = behaviour.piece_bytes;
  if (behaviour.ends_after_bytes >= 0) {
    if (static_cast<int64_t>(size_bytes) > behaviour.ends_after_bytes)
      size_bytes = static_cast<size_t>(behaviour.ends_after_bytes);
    behaviour.ends_after_bytes -= static_cast<int64_t>(size_bytes);
  }
  return syscall(SYS_pread64, file, out, size_bytes, offset_bytes);
}

namespace shira::testing {
namespace {

class OpenTest : public ::testing::Test {
 protected:
  ~OpenTest() override { behaviour = {}; }

  void write(const Bytes& bytes) {
    std::ofstream stream(path_, std::ios::binary);
    stream.write(reinterpret_cast<const char*>(bytes.data()),
                 static_cast<std::streamsize>(bytes.size()));
    ASSERT_TRUE(stream.flush().good());
  }

  void expect_io_error(const std::string& part_of_message) {
    const auto opened = AdapterFile::open(path_);
    ASSERT_FALSE(opened.ok());
    EXPECT_EQ(opened.error().status, Status::IO_ERROR);
    EXPECT_EQ(opened.error().file, path_);
    EXPECT_EQ(opened.error().offset_bytes, kNoOffset);
    EXPECT_NE(opened.error().message.find(part_of_message), std::string::npos)
        << opened.error().message;
  }

  const test::TemporaryFolder folder_;
  std::string path_ = folder_ / "adapter.shb";
};

TEST_F(OpenTest, ReadsWhatIsInTheFile) {
  write(sample());
  const auto opened = AdapterFile::open(path_);
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  EXPECT_EQ(opened.value()->path(), path_);
  EXPECT_EQ(opened.value()->file_bytes(), sample().size());
}

TEST_F(OpenTest, TakesShortAndInterruptedReads) {
  write(sample());
  behaviour.piece_bytes = 7;
  behaviour.interrupted = true;
  EXPECT_TRUE(AdapterFile::open(path_).ok());
  EXPECT_GT(behaviour.call_count, 100) << "the premise: this pread() was called";
}

TEST_F(OpenTest, SaysWhenTheFileShrinksMeanwhile) {
  write(sample());
  for (const int64_t size : {int64_t{0}, int64_t{100}, int64_t{256}, int64_t{700}}) {
    behaviour.ends_after_bytes = size;
    expect_io_error("shorter while it was read");
  }
}

TEST_F(OpenTest, SaysWhenTheSystemCannotRead) {
  write(sample());
  behaviour.fails_with = EIO;
  expect_io_error("cannot be read");
}

TEST_F(OpenTest, NamesTheFileOfAFormatError) {
  Bytes bytes = sample();
  bytes[section_offset(bytes, kTensors)] ^= 1;
  write(bytes);
  const auto opened = AdapterFile::open(path_);
  EXPECT_EQ(opened.error().status, Status::SECTION_CHECKSUM);
  EXPECT_EQ(opened.error().file, path_);
}

TEST_F(OpenTest, RefusesOtherFilesByTheirFirstBytes) {
  write({});
  EXPECT_EQ(AdapterFile::open(path_).error().status, Status::TRUNCATED);
  write(Bytes(100000, 'x'));
  behaviour.call_count = 0;
  EXPECT_EQ(AdapterFile::open(path_).error().status, Status::BAD_MAGIC);
  EXPECT_EQ(behaviour.call_count, 1) << "the rest is not read";
}

/// Gigabytes are neither read nor allocated for a file whose sections do not cover it.
TEST_F(OpenTest, RefusesASparseFileByItsSectionTable) {
  constexpr uint64_t kHuge = uint64_t{1} << 40;
  Bytes bytes = sample();
  put<uint64_t>(&bytes, 16, kHuge);
  reseal(&bytes);
  write(bytes);
  if (::truncate(path_.c_str(), kHuge) != 0) GTEST_SKIP() << "no sparse files here";
  behaviour.call_count = 0;
  const auto opened = AdapterFile::open(path_);
  EXPECT_EQ(opened.error().status, Status::BAD_LAYOUT) << opened.error().message;
  EXPECT_EQ(opened.error().offset_bytes, section_row(kValues) + 16);
  EXPECT_EQ(behaviour.call_count, 1) << "the rest is not read";
}

/// The sections may cover a file that no memory holds: that is an answer too.
TEST_F(OpenTest, SaysWhenTheFileDoesNotFitMemory) {
  constexpr uint64_t kHuge = uint64_t{1} << 40;
  Bytes bytes = sample();
  put<uint64_t>(&bytes, 16, kHuge);
  put<uint64_t>(&bytes, section_row(kValues) + 16, kHuge - section_offset(bytes, kValues));
  put<uint32_t>(&bytes, 56, crc32c(&bytes[256], 6 * 64));
  put_crc_of_header(&bytes);
  write(bytes);
  if (::truncate(path_.c_str(), kHuge) != 0) GTEST_SKIP() << "no sparse files here";
  const auto opened = AdapterFile::open(path_);
  EXPECT_EQ(opened.error().status, Status::OUT_OF_MEMORY) << opened.error().message;
  EXPECT_EQ(opened.error().file, path_);
}

TEST_F(OpenTest, TakesAPathThatIsNotAscii) {
  path_ += "_\xE6\x97\xA5\xE6\x9C\xAC \xF0\x9F\x98\x80";
  write(sample());
  EXPECT_TRUE(AdapterFile::open(path_).ok());
}

TEST_F(OpenTest, RefusesAFileItMayNotRead) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may read everything";
  write(sample());
  ASSERT_EQ(::chmod(path_.c_str(), 0), 0);
  expect_io_error("cannot be opened: Permission denied");
}

TEST_F(OpenTest, RefusesWhatIsNotThere) { expect_io_error("cannot be opened: No such file"); }

TEST_F(OpenTest, RefusesADirectory) {
  ASSERT_EQ(::mkdir(path_.c_str(), 0700), 0);
  expect_io_error("not a regular file");
}

TEST_F(OpenTest, RefusesAFifoWithoutWaitingForAWriter) {
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  ::alarm(20);  // ends the program if it waits after all
  expect_io_error("not a regular file");
  ::alarm(0);
}

/// The table that was checked is the one that is signed, also when the caller's memory is a mapped
/// file that somebody rewrites.
TEST_F(OpenTest, LooksAtMemoryThatChangesOnlyOnce) {
  if (!cryptography_available()) GTEST_SKIP() << "nothing to see what was copied";
  const Bytes good = sample();
  Bytes bytes = good;
  allocation_hook = {bytes.size(), [&] { bytes[section_row(kValues) + 32] ^= 1; }};
  const auto opened = AdapterFile::from_bytes(bytes.data(), bytes.size(), "changing");
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  ASSERT_NE(bytes, good) << "the premise: it changed when the copy was allocated";
  EXPECT_TRUE(opened.value()->check_digests().ok());
}

}  // namespace
}  // namespace shira::testing
