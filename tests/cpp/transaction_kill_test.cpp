// Laws I1 and I5 under SIGKILL: a process that switches at full speed is killed at random moments.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <csignal>

#include "transaction_support.h"

namespace shira::testing {
namespace {

const std::vector<std::vector<Member>> kCycle = {{{"a", 1}}, {{"b", 1}}, {{"a", 1}, {"b", 1}}, {}};

/// Everything of the file that a store through a mapping would leave a trace in.
struct FileTrace {
  Bytes content;
  timespec modified;
  timespec status_changed;
  off_t size_bytes;
  ino_t inode;

  explicit FileTrace(const WeightsFile& weights) : content(weights.read()) {
    struct stat status{};
    if (stat(weights.path().c_str(), &status) != 0) std::abort();
    modified = status.st_mtim;
    status_changed = status.st_ctim;
    size_bytes = status.st_size;
    inode = status.st_ino;
  }
  bool operator==(const FileTrace& other) const {
    const auto same_time = [](const timespec& a, const timespec& b) {
      return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
    };
    return content == other.content && same_time(modified, other.modified) &&
           same_time(status_changed, other.status_changed) && size_bytes == other.size_bytes &&
           inode == other.inode;
  }
};

/// Attaches, says so with one byte, and switches until it is killed.
[[noreturn]] void switch_for_ever(const WeightsFile& weights, int started, uint32_t thread_count) {
  AttachedProgram attached(weights);
  if (!attached.program.set_thread_count(thread_count).ok()) _exit(1);
  if (write(started, "r", 1) != 1) _exit(2);
  for (uint64_t i = 0;; ++i) {
    if (!attached.program.switch_to(kCycle[i % kCycle.size()]).ok()) _exit(3);
  }
}

/// What a process that starts after the kill finds: the base, and adapters that work.
int check_afresh(const WeightsFile& weights) {
  AttachedProgram attached(weights);
  if (attached.live() != weights.expected({})) return 1;
  if (!attached.program.switch_to({{"a", 1}, {"b", 1}}).ok()) return 2;
  if (attached.live() != weights.expected({{"a", 1}, {"b", 1}})) return 3;
  if (!attached.program.switch_to({}).ok()) return 4;
  if (attached.live() != weights.expected({})) return 5;
  const Result<VerifyReport> verified = attached.program.verify_base();
  return verified.ok() && verified.value().modified.empty() ? 0 : 6;
}

TEST(TransactionKill, AtRandomMomentsNothingIsHarmed) {
  const WeightsFile weights(3);
  const FileTrace before(weights);
  std::mt19937_64 random(20260101);
  const long round_count =
      count_from_environment("SHIRA_KILL_ROUNDS", test::kSanitized ? 100 : 1000);
  for (long round = 0; round < round_count; ++round) {
    int started[2];
    ASSERT_EQ(pipe(started), 0);
    fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) {
      close(started[0]);
      switch_for_ever(weights, started[1], round % 4 == 0 ? 2 : 1);
    }
    close(started[1]);
    char ready = 0;
    const bool is_started = read(started[0], &ready, 1) == 1;
    close(started[0]);
    // Half of them in the first switches, which copy the pages.
    const uint64_t wait_us = random() % (round % 2 == 0 ? 200 : 2000);
    const auto wait_until = std::chrono::steady_clock::now() + std::chrono::microseconds(wait_us);
    while (std::chrono::steady_clock::now() < wait_until) {
    }
    kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(is_started);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
        << "it ended by itself, with " << status;
    ASSERT_TRUE(FileTrace(weights) == before) << "killed after " << wait_us << " us";
    if (round % 10 == 0) {
      ASSERT_EQ(test::in_child([&] { return check_afresh(weights); }), 0)
          << "killed after " << wait_us << " us";
    }
  }
  EXPECT_EQ(test::in_child([&] { return check_afresh(weights); }), 0);
}

}  // namespace
}  // namespace shira::testing
