// Tests of FaultGuard: faults inside a guarded range are survived, all others end where they did.
// SPDX-License-Identifier: Apache-2.0
#include "base/fault_guard.h"

#include <gtest/gtest.h>

#include <thread>

#include "attach_fixtures.h"

namespace shira {
namespace {

/// As test::in_child, with the system's own SIGBUS action, in whose place sanitizers put another.
template <typename Body>
int in_child(const Body& body) {
  return test::in_child([&] {
    signal(SIGBUS, SIG_DFL);
    return body();
  });
}

/// Four pages of a file of two: the last two are mapped, and not there.
class FaultGuardTest : public ::testing::Test {
 protected:
  FaultGuardTest() : file_(test::Bytes(4 * page_, 7)) {
    const int descriptor = open(file_.path().c_str(), O_RDWR);
    memory_ = static_cast<uint8_t*>(
        mmap(nullptr, 4 * page_, PROT_READ | PROT_WRITE, MAP_PRIVATE, descriptor, 0));
    memory_[3 * page_] = 8;  // a private copy, which goes away with the file's page
    if (ftruncate(descriptor, static_cast<off_t>(2 * page_)) != 0) std::abort();
    close(descriptor);
  }
  ~FaultGuardTest() override { munmap(memory_, 4 * page_); }

  uint8_t read(size_t page) const { return static_cast<volatile uint8_t*>(memory_)[page * page_]; }

  const size_t page_ = page_bytes();
  const test::TemporaryFile file_;
  uint8_t* memory_ = nullptr;
};

uint8_t* expected_address = nullptr;
void exit_3(int /*signal*/) { _exit(3); }
void look_and_exit_4(int /*signal*/, siginfo_t* info, void* /*context*/) {
  _exit(info->si_code == BUS_ADRERR && info->si_addr == expected_address ? 4 : 9);
}

TEST_F(FaultGuardTest, AMissingPageIsReadAsZerosAndRemembered) {
  const FaultGuard guard(memory_, 4 * page_);
  EXPECT_EQ(read(1), 7);
  EXPECT_FALSE(guard.has_faulted());
  errno = 1234;
  EXPECT_EQ(read(3), 0);
  EXPECT_EQ(errno, 1234);
  EXPECT_TRUE(guard.has_faulted());
  memory_[2 * page_ + 5] = 9;
  EXPECT_EQ(memory_[2 * page_ + 5], 9);
  EXPECT_EQ(read(0), 7);
}

TEST_F(FaultGuardTest, TheInnermostGuardOfThePageRemembers) {
  const FaultGuard outer(memory_, 4 * page_);
  {
    const FaultGuard inner(memory_ + 2 * page_, page_);
    EXPECT_EQ(read(2), 0);
    EXPECT_TRUE(inner.has_faulted());
    EXPECT_FALSE(outer.has_faulted());
    EXPECT_EQ(read(3), 0);
    EXPECT_TRUE(outer.has_faulted());
  }
}

TEST_F(FaultGuardTest, AFaultOutsideTheRangeEndsTheProcess) {
  EXPECT_EQ(in_child([&] { return static_cast<int>(read(2)); }), -SIGBUS) << "without any guard";
  EXPECT_EQ(in_child([&] {
              const FaultGuard guard(memory_, 3 * page_);
              return static_cast<int>(read(3));
            }),
            -SIGBUS);
}

TEST_F(FaultGuardTest, AnotherThreadsRangeIsNotThisOnes) {
  EXPECT_EQ(in_child([&] {
              const FaultGuard guard(memory_, 4 * page_);
              std::thread([&] { read(3); }).join();
              return 0;
            }),
            -SIGBUS);
  std::thread([&] {
    const FaultGuard guard(memory_, 4 * page_);
    EXPECT_EQ(read(3), 0);
    EXPECT_TRUE(guard.has_faulted());
  }).join();
}

TEST_F(FaultGuardTest, ASignalThatWasSentEndsTheProcess) {
  EXPECT_EQ(in_child([&] {
              const FaultGuard guard(memory_, 4 * page_);
              kill(getpid(), SIGBUS);
              return 0;
            }),
            -SIGBUS);
  EXPECT_EQ(in_child([&] {
              signal(SIGBUS, SIG_IGN);
              const FaultGuard guard(memory_, 4 * page_);
              kill(getpid(), SIGBUS);
              return 5;
            }),
            5)
      << "unless it is ignored";
}

TEST_F(FaultGuardTest, TheApplicationsActionGetsItsOwnFaults) {
  expected_address = memory_ + 3 * page_;
  EXPECT_EQ(in_child([&] {
              struct sigaction action{};
              action.sa_sigaction = &look_and_exit_4;
              action.sa_flags = SA_SIGINFO;
              sigaction(SIGBUS, &action, nullptr);
              const FaultGuard guard(memory_, 3 * page_);
              if (read(2) != 0) return 1;
              read(3);
              return 2;
            }),
            4);
  EXPECT_EQ(in_child([&] {
              signal(SIGBUS, &exit_3);
              const FaultGuard guard;
              read(3);
              return 2;
            }),
            3);
}

TEST_F(FaultGuardTest, TheActionIsGivenBack) {
  const auto action_now = [] {
    struct sigaction now{};
    sigaction(SIGBUS, nullptr, &now);
    return now;
  };
  struct sigaction ours{};
  ours.sa_handler = &exit_3;
  struct sigaction before{};
  ASSERT_EQ(sigaction(SIGBUS, &ours, &before), 0);
  {
    const FaultGuard guard;
    EXPECT_NE(action_now().sa_handler, &exit_3);
    {
      const FaultGuard another(memory_, page_);
    }
    EXPECT_NE(action_now().sa_handler, &exit_3) << "as long as one is left";
  }
  EXPECT_EQ(action_now().sa_handler, &exit_3);
  {
    const FaultGuard guard;
    signal(SIGBUS, SIG_IGN);
  }
  EXPECT_EQ(action_now().sa_handler, SIG_IGN)
      << "what was installed meanwhile is not ours to change";
  sigaction(SIGBUS, &before, nullptr);
}

}  // namespace
}  // namespace shira
