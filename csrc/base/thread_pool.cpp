// ThreadPool: persistent workers that help with one job at a time.
// SPDX-License-Identifier: Apache-2.0
#include "base/thread_pool.h"

// pthread_create reports failure as a number; std::thread would throw.
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <new>
#include <vector>

#include "base/fast_cpus.h"

namespace shira {

struct ThreadPool::Job {
  Job(size_t task_count, Call task_call, const void* task_context)
      : count(task_count), call(task_call), context(task_context), failed_index(task_count) {}

  // Takes tasks in ascending order until none is left. Every task below a failed one has been taken
  // by then, so the lowest failure is found whatever the timing.
  void work() {
    for (size_t i = next.fetch_add(1); i < failed_index.load(); i = next.fetch_add(1)) {
      Result<void> result = call(context, i);
      if (result.ok()) continue;
      const std::lock_guard<std::mutex> lock(mutex);
      if (i >= failed_index.load()) continue;
      failed_index.store(i);
      error = std::move(result.error());
    }
  }

  const size_t count;
  const Call call;
  const void* const context;
  std::atomic<size_t> next{0};
  std::atomic<size_t> failed_index;  // count while nothing failed
  std::mutex mutex;
  Error error;
};

struct ThreadPool::Shared {
  std::mutex one_job;  // held by run()
  std::mutex mutex;    // guards everything below
  std::condition_variable wake;
  std::condition_variable idle;
  Job* job = nullptr;
  uint32_t wanted_count = 0;   // workers that may still join the job
  uint32_t working_count = 0;  // workers inside the job
  bool stopping = false;
  pid_t owner_pid = 0;
  uint32_t worker_count = 0;
  std::array<pthread_t, kMaxThreads> workers{};
  std::vector<uint32_t> cpus;  // of the workers; empty: any

  static void* worker_main(void* argument) {
    Shared& shared = *static_cast<Shared*>(argument);
    if (!shared.cpus.empty()) stay_on_cpus(shared.cpus);
    std::unique_lock<std::mutex> lock(shared.mutex);
    while (true) {
      shared.wake.wait(lock, [&] { return shared.stopping || shared.wanted_count > 0; });
      if (shared.stopping) return nullptr;
      --shared.wanted_count;
      ++shared.working_count;
      Job* job = shared.job;
      lock.unlock();
      job->work();
      lock.lock();
      if (--shared.working_count == 0) shared.idle.notify_all();
    }
  }
};

Result<std::shared_ptr<ThreadPool>> ThreadPool::make(uint32_t thread_count,
                                                     uint64_t work_per_thread,
                                                     const std::string& sysfs_root) {
  std::shared_ptr<ThreadPool> pool(new ThreadPool);
  if (thread_count == 1) return pool;
  pool->thread_count_ = thread_count;
  pool->work_per_thread_ = work_per_thread;
  pool->shared_ = std::make_unique<Shared>();
  Shared& shared = *pool->shared_;
  shared.owner_pid = getpid();
  shared.cpus = fast_cpus(allowed_cpus(), sysfs_root);
  while (shared.worker_count + 1 < thread_count) {
    if (pthread_create(&shared.workers[shared.worker_count], nullptr, &Shared::worker_main,
                       &shared) != 0) {
      return Error{Status::OUT_OF_MEMORY, "the system refused thread " +
                                              std::to_string(shared.worker_count + 2) + " of " +
                                              std::to_string(thread_count)};
    }
    ++shared.worker_count;
  }
  return pool;
}

ThreadPool::~ThreadPool() {
  if (!shared_) return;
  if (shared_->owner_pid != getpid()) {
    // A forked child: there is nobody to join, and destroying a condition variable that has waiters
    // would hang.
    static_cast<void>(shared_.release());
    return;
  }
  {
    const std::lock_guard<std::mutex> lock(shared_->mutex);
    shared_->stopping = true;
    shared_->wake.notify_all();
  }
  for (uint32_t i = 0; i < shared_->worker_count; ++i) pthread_join(shared_->workers[i], nullptr);
}

Result<void> ThreadPool::run_erased(size_t count, uint64_t work, Call call, const void* context) {
  Job job(count, call, context);
  const uint64_t team_count = std::min<uint64_t>({work / work_per_thread_, count, thread_count_});
  std::unique_lock<std::mutex> one_job;
  if (team_count > 1 && shared_->owner_pid == getpid()) {
    one_job = std::unique_lock<std::mutex>(shared_->one_job, std::try_to_lock);
  }
  if (!one_job.owns_lock()) {
    job.work();
    return std::move(job.error);
  }
  {
    const std::lock_guard<std::mutex> lock(shared_->mutex);
    shared_->job = &job;
    shared_->wanted_count = static_cast<uint32_t>(team_count) - 1;
    shared_->wake.notify_all();
  }
  job.work();
  std::unique_lock<std::mutex> lock(shared_->mutex);
  shared_->wanted_count = 0;  // who has not come yet need not come
  shared_->idle.wait(lock, [this] { return shared_->working_count == 0; });
  shared_->job = nullptr;
  return std::move(job.error);
}

}  // namespace shira
