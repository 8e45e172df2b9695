// Choosing CPUs in made-up sysfs trees, and the pool's threads on real ones.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <mutex>
#include <set>
#include <thread>

#include "base/fast_cpus.h"
#include "base/thread_pool.h"
#include "temporary_folder.h"

namespace shira {
namespace {

using Cpus = std::vector<uint32_t>;

/// A sysfs that says what a test wants.
class FastCpus : public ::testing::Test {
 protected:
  void write(uint32_t cpu, const std::string& file, const std::string& text) const {
    const std::filesystem::path path =
        std::filesystem::path(root_) / "devices/system/cpu" / ("cpu" + std::to_string(cpu)) / file;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text << "\n";
  }

  void write_all(const std::string& file, const std::vector<int>& values) const {
    for (size_t cpu = 0; cpu < values.size(); ++cpu)
      write(static_cast<uint32_t>(cpu), file, std::to_string(values[cpu]));
  }

  const test::TemporaryFolder folder_;
  const std::string& root_ = folder_.path();
};

TEST_F(FastCpus, TheBigOnesOfTwoKinds) {
  write_all("cpu_capacity", {446, 446, 446, 446, 1024, 1024, 1024, 1024});
  EXPECT_EQ(fast_cpus({0, 1, 2, 3, 4, 5, 6, 7}, root_), (Cpus{4, 5, 6, 7}));
}

TEST_F(FastCpus, ThePrimeCoreIsNotAlone) {
  write_all("cpu_capacity", {325, 325, 325, 325, 828, 828, 828, 1024});
  EXPECT_EQ(fast_cpus({0, 1, 2, 3, 4, 5, 6, 7}, root_), (Cpus{4, 5, 6, 7}));
}

TEST_F(FastCpus, OnlyAmongThoseThatAreAllowed) {
  write_all("cpu_capacity", {300, 300, 500, 500, 1024, 1024});
  EXPECT_EQ(fast_cpus({0, 1, 2}, root_), (Cpus{2}));
  EXPECT_EQ(fast_cpus({0, 5}, root_), (Cpus{5}));
  EXPECT_EQ(fast_cpus({0, 1}, root_), Cpus{});
  EXPECT_EQ(fast_cpus({4}, root_), Cpus{});
}

TEST_F(FastCpus, EqualOnesLeaveNothingToChoose) {
  write_all("cpu_capacity", {1024, 1024, 1024, 1024});
  EXPECT_EQ(fast_cpus({0, 1, 2, 3}, root_), Cpus{});
}

TEST_F(FastCpus, FrequenciesWhereThereAreNoCapacities) {
  write_all("cpufreq/cpuinfo_max_freq", {1800000, 1800000, 2800000, 3000000});
  EXPECT_EQ(fast_cpus({0, 1, 2, 3}, root_), (Cpus{2, 3}));
  write(0, "cpu_capacity", "1024");  // of one alone says nothing
  EXPECT_EQ(fast_cpus({0, 1, 2, 3}, root_), (Cpus{2, 3}));
  write_all("cpu_capacity", {1024, 400, 400, 400});
  EXPECT_EQ(fast_cpus({0, 1, 2, 3}, root_), (Cpus{0}));
}

TEST_F(FastCpus, WhatCannotBeReadIsNoReason) {
  EXPECT_EQ(fast_cpus({0, 1}, root_), Cpus{});
  EXPECT_EQ(fast_cpus({0, 1}, "/nowhere"), Cpus{});
  EXPECT_EQ(fast_cpus({}, root_), Cpus{});
  write_all("cpu_capacity", {100, 1024});
  write(1, "cpu_capacity", "fast");
  EXPECT_EQ(fast_cpus({0, 1}, root_), Cpus{});
}

TEST_F(FastCpus, WorkersStayThereAndTheCallerIsLeftAlone) {
  const Cpus all = allowed_cpus();
  if (all.size() < 2) GTEST_SKIP() << "there is one CPU";
  for (const uint32_t cpu : all) write(cpu, "cpu_capacity", cpu == all.back() ? "1024" : "256");
  const auto pool = ThreadPool::make(2, ThreadPool::kWorkPerThread, root_).value();
  std::mutex mutex;
  std::set<Cpus> of_workers;
  const std::thread::id caller = std::this_thread::get_id();
  // Until a worker got one of the tasks.
  for (int round = 0; of_workers.empty() && round < 1000; ++round) {
    const auto task = [&](size_t) -> Result<void> {
      if (std::this_thread::get_id() == caller) usleep(100);
      const std::lock_guard<std::mutex> lock(mutex);
      if (std::this_thread::get_id() != caller) of_workers.insert(allowed_cpus());
      return {};
    };
    ASSERT_TRUE(pool->run(20, 1 << 20, task).ok());
  }
  EXPECT_EQ(of_workers, std::set<Cpus>{Cpus{all.back()}});
  EXPECT_EQ(allowed_cpus(), all);
}

}  // namespace
}  // namespace shira
