// ThreadPool: runs numbered tasks on a few threads; the answer never depends on how many there are
// (law I7). SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"

namespace shira {

/// The caller of run() works too, so a pool of one creates no thread. Threads do not survive
/// fork(): in the child the caller does all the work alone, until a new pool is made. Where the
/// system has faster and slower CPUs, the pool's own threads stay on the fast ones among those that
/// the thread which makes the pool may use (see fast_cpus()): one on a slow CPU would keep all
/// others waiting. The caller is left where the application wants it.
class ThreadPool {
 public:
  static constexpr uint32_t kMaxThreads = 64;

  /// Waking a thread costs tens of microseconds, about the time that this many elements take.
  static constexpr uint64_t kWorkPerThread = 32768;

  /// REQUIRES: 1 <= thread_count <= kMaxThreads, work_per_thread >= 1. OUT_OF_MEMORY when the
  /// system grants no further thread. `work_per_thread`, `sysfs_root`: other ones for tests.
  static Result<std::shared_ptr<ThreadPool>> make(uint32_t thread_count,
                                                  uint64_t work_per_thread = kWorkPerThread,
                                                  const std::string& sysfs_root = "/sys");

  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  uint32_t thread_count() const { return thread_count_; }

  /// Calls task(0) ... task(count - 1), each once, in any order, and waits for all. `work` is the
  /// total number of elements behind the tasks: little work stays in the calling thread. Answers
  /// the error of the lowest failing task; tasks above a failed one may be left out, none below.
  /// Allocates nothing. A second run() at the same time works alone.
  template <typename Task>  // Result<void>(size_t)
  Result<void> run(size_t count, uint64_t work, const Task& task) {
    return run_erased(
        count, work,
        [](const void* context, size_t i) { return (*static_cast<const Task*>(context))(i); },
        &task);
  }

 private:
  using Call = Result<void> (*)(const void* context, size_t task_index);
  struct Job;
  struct Shared;

  ThreadPool() = default;
  Result<void> run_erased(size_t count, uint64_t work, Call call, const void* context);

  uint32_t thread_count_ = 1;
  uint64_t work_per_thread_ = kWorkPerThread;
  std::unique_ptr<Shared> shared_;  // null when there is one thread
};

}  // namespace shira
