// Files as hostile surroundings hand them out: changed while they are read, of the wrong kind,
// huge. SPDX-License-Identifier: Apache-2.0
#include <dlfcn.h>
#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <string>

#include "attach_fixtures.h"
#include "base/file.h"
#include "format/adapter_file.h"
#include "shb_sample.h"

namespace {

/// Called in the place of pread, when set.
std::function<ssize_t(int, void*, size_t, off_t)> pread_hook;
long physical_pages = 0;  // what the system is made to say, unless 0

template <typename Function>
Function* next_of(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

ssize_t real_pread(int descriptor, void* out, size_t size_bytes, off_t offset_bytes) {
  static auto* const next = next_of<ssize_t(int, void*, size_t, off_t)>("pread");
  return next(descriptor, out, size_bytes, offset_bytes);
}

}  // namespace

// The program's own definitions come before the C library's.
extern "C" ssize_t pread(int descriptor, void* out, size_t size_bytes, off_t offset_bytes) {
  return pread_hook ? pread_hook(descriptor, out, size_bytes, offset_bytes)
                    : real_pread(descriptor, out, size_bytes, offset_bytes);
}

extern "C" long sysconf(int name) noexcept {
  static auto* const next = next_of<long(int)>("sysconf");
  return name == _SC_PHYS_PAGES && physical_pages != 0 ? physical_pages : next(name);
}

namespace shira::testing {
namespace {

class TransactionFile : public ::testing::Test {
 protected:
  TransactionFile() : content_(sample()), disk_(content_, "adapter.shb") {}
  void TearDown() override {
    pread_hook = {};
    physical_pages = 0;
  }

  static Error error_of(const std::string& path) {
    const Error error = AdapterFile::open(path).error();
    if (!error.ok()) {
      EXPECT_EQ(error.file, path);
    }
    return error;
  }

  const Bytes content_;
  const test::TemporaryFile disk_;
};

TEST_F(TransactionFile, AnInterruptedReadGoesOn) {
  int calls = 0;
  pread_hook = [&](int descriptor, void* out, size_t size_bytes, off_t offset) -> ssize_t {
    if (++calls % 3 != 0) {
      errno = EINTR;
      return -1;
    }
    return real_pread(descriptor, out, size_bytes, offset);
  };
  EXPECT_TRUE(error_of(disk_.path()).ok());
  EXPECT_GE(calls, 3);
}

TEST_F(TransactionFile, ShortReadsGoOn) {
  for (const size_t most : {size_t{1}, size_t{7}, size_t{64}}) {
    size_t calls = 0;
    pread_hook = [&](int descriptor, void* out, size_t size_bytes, off_t offset) {
      ++calls;
      return real_pread(descriptor, out, std::min(size_bytes, most), offset);
    };
    EXPECT_TRUE(error_of(disk_.path()).ok());
    EXPECT_GE(calls, content_.size() / most);
  }
}

TEST_F(TransactionFile, AReadThatFailsIsAnError) {
  for (int good_calls = 0; good_calls < 2; ++good_calls) {
    int calls = 0;
    pread_hook = [&](int descriptor, void* out, size_t size_bytes, off_t offset) -> ssize_t {
      if (calls++ < good_calls) {
        return real_pread(descriptor, out, std::min<size_t>(size_bytes, 200), offset);
      }
      errno = EIO;
      return -1;
    };
    const Error error = error_of(disk_.path());
    EXPECT_EQ(error.status, Status::IO_ERROR);
    EXPECT_EQ(error.message, "the file cannot be read: Input/output error");
  }
}

TEST_F(TransactionFile, AFileThatShrinksWhileItIsReadIsAnError) {
  for (size_t length = 0; length < content_.size(); length += 37) {
    test::TemporaryFile::write(disk_.path(), content_);
    bool is_cut = false;
    pread_hook = [&](int descriptor, void* out, size_t size_bytes, off_t offset) {
      const ssize_t got = real_pread(descriptor, out, std::min<size_t>(size_bytes, 16), offset);
      if (!is_cut && truncate(disk_.path().c_str(), static_cast<off_t>(length)) != 0)
        return ssize_t{-1};
      is_cut = true;
      return got;
    };
    const Error error = error_of(disk_.path());
    EXPECT_EQ(error.status, Status::IO_ERROR) << length << ": " << error.message;
    EXPECT_EQ(error.message, "the file became shorter while it was read");
  }
}

TEST_F(TransactionFile, AFileThatGrowsOrIsReplacedWhileItIsReadIsWhatItWas) {
  Bytes grown = content_;
  grown.resize(grown.size() + 100);
  bool is_done = false;
  const auto once = [&](const auto& change) {
    is_done = false;
    pread_hook = [&is_done, change](int descriptor, void* out, size_t size_bytes, off_t offset) {
      if (!std::exchange(is_done, true)) change();
      return real_pread(descriptor, out, size_bytes, offset);
    };
  };
  once([&] {
    test::TemporaryFile::write(disk_.path() + ".new", grown);
    rename((disk_.path() + ".new").c_str(), disk_.path().c_str());
  });
  EXPECT_TRUE(error_of(disk_.path()).ok()) << "the file that was opened is still all there";
  EXPECT_TRUE(is_done);
  pread_hook = {};
  EXPECT_EQ(error_of(disk_.path()).status, Status::TRAILING_BYTES) << "the one of that name now";

  test::TemporaryFile::write(disk_.path(), content_);
  once([&] {
    if (truncate(disk_.path().c_str(), static_cast<off_t>(grown.size())) != 0) std::abort();
  });
  EXPECT_TRUE(error_of(disk_.path()).ok()) << "its declared bytes are all there";
}

TEST_F(TransactionFile, OtherKindsOfFilesAreRefused) {
  const std::string fifo = disk_.path() + ".new";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  ::alarm(20);  // ends the program if it waits after all
  for (const std::string& path :
       {fifo, std::string("/tmp"), std::string("/dev/zero"), std::string("/dev/null")}) {
    EXPECT_EQ(error_of(path).status, Status::IO_ERROR) << path;
    EXPECT_EQ(error_of(path).message, "this is not a regular file") << path;
  }
  ::alarm(0);
  EXPECT_EQ(error_of(disk_.path() + ".none").message,
            "the file cannot be opened: No such file or directory");
  EXPECT_EQ(error_of(disk_.path() + "/x").message, "the file cannot be opened: Not a directory");
  EXPECT_EQ(error_of("").status, Status::IO_ERROR);
  EXPECT_EQ(error_of(std::string(5000, 'x')).status, Status::IO_ERROR);
  EXPECT_EQ(error_of("file://" + disk_.path()).message,
            "this is a URL, and a path is needed: leave out file://");
}

TEST_F(TransactionFile, AnEmptyFileIsTruncated) {
  test::TemporaryFile::write(disk_.path(), {});
  EXPECT_EQ(error_of(disk_.path()).status, Status::TRUNCATED);
}

TEST_F(TransactionFile, APathNeedNotBeAscii) {
  for (const std::string name : {"\xc3\xa4\xe2\x82\xac \xf0\x9f\x90\xa2.shb",
                                 "not utf-8 \xff\xfe.shb", "a\nb\tc\"d%s.shb"}) {
    const test::TemporaryFile disk(content_, name);
    EXPECT_TRUE(error_of(disk.path()).ok()) << name;
    EXPECT_EQ(error_of(disk.path() + "x").status, Status::IO_ERROR);
  }
  const std::string link = disk_.path() + ".link";
  ASSERT_EQ(symlink(disk_.path().c_str(), link.c_str()), 0);
  EXPECT_TRUE(error_of(link).ok()) << "a link is the file that it points to";
}

TEST_F(TransactionFile, AFileWithoutPermissionIsAnError) {
  ASSERT_EQ(chmod(disk_.path().c_str(), 0), 0);
  ASSERT_EQ(chmod(disk_.path().substr(0, disk_.path().rfind('/')).c_str(), 0755), 0);
  EXPECT_EQ(test::in_child([&] {
              if (geteuid() == 0 &&
                  (setgroups(0, nullptr) != 0 || setgid(65534) != 0 || setuid(65534) != 0)) {
                return 1;
              }
              const Error error = AdapterFile::open(disk_.path()).error();
              return error.status == Status::IO_ERROR &&
                             error.message == "the file cannot be opened: Permission denied"
                         ? 0
                         : 2;
            }),
            0);
}

TEST_F(TransactionFile, AChildOfTheProcessDoesNotInheritIt) {
  int flags = 0;
  pread_hook = [&](int descriptor, void* out, size_t size_bytes, off_t offset) {
    flags = fcntl(descriptor, F_GETFD);
    return real_pread(descriptor, out, size_bytes, offset);
  };
  EXPECT_TRUE(error_of(disk_.path()).ok());
  EXPECT_EQ(flags, FD_CLOEXEC);
}

TEST_F(TransactionFile, AHugeSparseFileIsRefusedBeforeMemoryIsSpent) {
  if (truncate(disk_.path().c_str(), off_t{8} << 30) != 0) {
    GTEST_SKIP() << "this file system has no files of 8 GiB";
  }
  uint64_t read_bytes = 0;
  pread_hook = [&](int descriptor, void* out, size_t size_bytes, off_t offset) {
    read_bytes += size_bytes;
    return real_pread(descriptor, out, size_bytes, offset);
  };
  EXPECT_EQ(error_of(disk_.path()).status, Status::TRAILING_BYTES);
  EXPECT_LE(read_bytes, 65536U);
  test::TemporaryFile::write(disk_.path(), {});
  ASSERT_EQ(truncate(disk_.path().c_str(), off_t{8} << 30), 0);
  EXPECT_EQ(error_of(disk_.path()).status, Status::BAD_MAGIC);
}

TEST_F(TransactionFile, AFileThatIsTooLargeForTheMachineIsRefused) {
  const test::TemporaryFile large(Bytes(2 * page_bytes()), "large");
  const File file = std::move(File::open(large.path()).value());
  physical_pages = 4;
  EXPECT_TRUE(file.check_fits_memory(2 * page_bytes()).ok());
  const Error error = file.check_fits_memory(2 * page_bytes() + 1).error();
  EXPECT_EQ(error.status, Status::OUT_OF_MEMORY);
  EXPECT_EQ(error.file, large.path());
  EXPECT_FALSE(file.check_fits_memory(UINT64_MAX).ok());
  physical_pages = -1;  // the system does not say
  EXPECT_TRUE(file.check_fits_memory(uint64_t{1} << 30).ok());
  EXPECT_FALSE(file.check_fits_memory(UINT64_MAX).ok());

  // A file that declares its size truthfully is refused for its size alone.
  AdapterInput input = sample_input();
  input.metadata = "{\"notes\": \"" + std::string(4 * page_bytes(), 'x') + "\"}";
  test::TemporaryFile::write(disk_.path(), build_adapter(input));
  physical_pages = 100;
  EXPECT_TRUE(error_of(disk_.path()).ok());
  physical_pages = 4;
  EXPECT_EQ(error_of(disk_.path()).status, Status::OUT_OF_MEMORY);
}

}  // namespace
}  // namespace shira::testing
