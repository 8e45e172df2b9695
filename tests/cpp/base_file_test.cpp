// Files as the core reads them: any place, any end, and only regular ones.
// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "attach_fixtures.h"

namespace shira {
namespace {

TEST(File, ReadsAnyPlaceUpToTheEnd) {
  const test::TemporaryFile disk(test::Bytes{10, 11, 12, 13, 14});
  const Result<File> file = File::open(disk.path());
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(file.value().path(), disk.path());
  EXPECT_EQ(file.value().state().value().size_bytes, 5U);
  test::Bytes out(3);
  EXPECT_EQ(file.value().read_at(1, 3, out.data()).value(), 3U);
  EXPECT_EQ(out, (test::Bytes{11, 12, 13}));
  EXPECT_EQ(file.value().read_at(4, 3, out.data()).value(), 1U);
  EXPECT_EQ(out, (test::Bytes{14, 12, 13}));
  EXPECT_EQ(file.value().read_at(5, 3, out.data()).value(), 0U);
}

TEST(File, ClosesItselfOnceWhoeverHoldsIt) {
  const test::TemporaryFile disk(test::Bytes(5));
  int descriptor = -1;
  {
    Result<File> file = File::open(disk.path());
    descriptor = file.value().descriptor();
    const File moved = std::move(file.value());
    EXPECT_EQ(moved.descriptor(), descriptor);
    EXPECT_EQ(fcntl(descriptor, F_GETFD), FD_CLOEXEC);
  }
  EXPECT_EQ(fcntl(descriptor, F_GETFD), -1);
}

TEST(File, WhatIsNoRegularFileIsRefusedWithoutWaiting) {
  const test::TemporaryFile disk(test::Bytes(5));
  const std::string fifo = disk.path() + ".new";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  ::alarm(20);  // ends the program if it waits after all
  for (const std::string& path : {fifo, std::string("/tmp"), std::string("/dev/null")}) {
    const Result<File> file = File::open(path);
    EXPECT_EQ(file.error().status, Status::IO_ERROR);
    EXPECT_EQ(file.error().file, path);
    EXPECT_EQ(file.error().message, "this is not a regular file");
  }
  ::alarm(0);
  const Error missing = File::open(disk.path() + ".none").error();
  EXPECT_EQ(missing.status, Status::IO_ERROR);
  EXPECT_EQ(missing.message, "the file cannot be opened: No such file or directory");
}

TEST(File, APathThatGoesOnBehindANulIsRefused) {
  const test::TemporaryFile disk(test::Bytes(5));
  const std::string path = disk.path() + std::string("\0.shb", 5);
  const Result<File> file = File::open(path);
  ASSERT_FALSE(file.ok());
  EXPECT_EQ(file.error().status, Status::IO_ERROR);
  EXPECT_EQ(file.error().file, path);
}

}  // namespace
}  // namespace shira
