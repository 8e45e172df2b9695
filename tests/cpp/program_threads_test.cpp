// The gate, the thread pool and a program used from many threads (laws I7 and I9); meant for the
// thread sanitizer too. SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <future>
#include <thread>

#include "base/thread_pool.h"
#include "runtime/gate.h"
#include "runtime_support.h"

namespace shira::testing {
namespace {

using std::chrono::milliseconds;

// True when `future` is still waiting after a while.
bool waits(const std::future<void>& future) {
  return future.wait_for(milliseconds(30)) == std::future_status::timeout;
}

TEST(Gate, AWriterWaitsForReadersAndKeepsNewOnesOut) {
  Gate gate;
  gate.begin_read();
  gate.begin_read();
  EXPECT_FALSE(gate.try_begin_write());
  std::future<void> writer = std::async(std::launch::async, [&] { gate.begin_write(); });
  EXPECT_TRUE(waits(writer));
  std::future<void> late_reader = std::async(std::launch::async, [&] { gate.begin_read(); });
  EXPECT_TRUE(waits(late_reader)) << "a waiting writer must not be starved";
  std::async(std::launch::async, [&] {
    gate.end_read();
  }).wait();  // by another thread than the one that began
  EXPECT_TRUE(waits(writer));
  EXPECT_TRUE(gate.end_read());
  writer.wait();
  EXPECT_TRUE(waits(late_reader));
  EXPECT_FALSE(gate.try_begin_write());
  gate.end_write();
  late_reader.wait();
  EXPECT_TRUE(gate.end_read());
  EXPECT_FALSE(gate.end_read()) << "nobody is inside";
  EXPECT_TRUE(gate.try_begin_write());
  gate.end_write();
}

TEST(ThreadPool, RunsEveryTaskOnce) {
  for (const uint32_t thread_count : {1U, 2U, 5U}) {
    const auto pool = ThreadPool::make(thread_count).value();
    for (int round = 0; round < 200; ++round) {
      std::vector<std::atomic<int>> calls(100);
      const Result<void> result =
          pool->run(calls.size(), UINT64_MAX, [&](size_t i) -> Result<void> {
            ++calls[i];
            return {};
          });
      ASSERT_TRUE(result.ok());
      for (const auto& count : calls) ASSERT_EQ(count, 1);
    }
    EXPECT_TRUE(
        pool->run(0, UINT64_MAX, [](size_t) -> Result<void> { return Error{Status::BUSY}; }).ok());
  }
}

TEST(ThreadPool, TheLowestFailureWins) {
  const auto pool = ThreadPool::make(4).value();
  for (int round = 0; round < 200; ++round) {
    const Result<void> result = pool->run(100, UINT64_MAX, [&](size_t i) -> Result<void> {
      // 19 fails first, then 17, then 18: neither the first nor the last failure is the answer.
      if (i == 17) std::this_thread::sleep_for(std::chrono::microseconds(200));
      if (i == 18) std::this_thread::sleep_for(std::chrono::microseconds(600));
      if (i < 17) return {};
      return Error{Status::BAD_VALUE, std::to_string(i)};
    });
    ASSERT_EQ(result.error().message, "17");
  }
}

TEST(ThreadPool, TwoRunsAtATimeShareNothing) {
  const auto pool = ThreadPool::make(3).value();
  const auto sum = [&] {
    for (int round = 0; round < 200; ++round) {
      std::atomic<size_t> total{0};
      const Result<void> result = pool->run(50, UINT64_MAX, [&](size_t i) -> Result<void> {
        total += i;
        return {};
      });
      EXPECT_TRUE(result.ok());
      EXPECT_EQ(total, 49U * 50U / 2);
    }
  };
  std::thread other(sum);
  sum();
  other.join();
}

#if !defined(__SANITIZE_THREAD__)
TEST(ThreadPool, AForkedChildWorksAlone) {
  const auto pool = ThreadPool::make(4).value();
  const pid_t child = fork();
  if (child == 0) {
    auto inherited = pool;
    std::atomic<size_t> calls{0};
    const bool ok = inherited
                        ->run(10, UINT64_MAX,
                              [&](size_t) -> Result<void> {
                                ++calls;
                                return {};
                              })
                        .ok();
    _exit(ok && calls == 10 ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}
#endif

// Two adapters over the same positions: a reader must only ever see all of one state.
class BusyProgram : public ::testing::Test {
 protected:
  static constexpr uint32_t kNumel = 4096;

  void SetUp() override {
    model_.tensors.push_back(make_tensor("w", Dtype::f32, {kNumel},
                                         encode_values(Dtype::f32, std::vector<float>(kNumel, 0))));
    std::vector<uint32_t> index;
    for (uint32_t i = 0; i < kNumel; ++i) index.push_back(i);
    model_.register_with(&program_);
    for (int i = 1; i <= 2; ++i) {
      const std::string name = i == 1 ? "one" : "two";
      const TestAdapter adapter = simple_adapter(name, model_.tensors[0], index,
                                                 std::vector<float>(kNumel, static_cast<float>(i)));
      ASSERT_TRUE(program_.add_adapter(adapter.source, {}).ok());
    }
  }

  Model model_;
  Program program_;
};

TEST_F(BusyProgram, TrySwitchIsBusyDuringAForward) {
  program_.begin_forward();
  const Result<SwitchReport> busy = program_.switch_to({{"one", 1}}, false);
  EXPECT_EQ(busy.error().status, Status::BUSY);
  EXPECT_EQ(model_.live(), model_.pristine());
  std::future<void> waiting = std::async(std::launch::async, [&] {
    const Result<SwitchReport> result = program_.switch_to({{"one", 1}});
    EXPECT_TRUE(result.ok());
    EXPECT_GT(result.value().wait_ns, 1000000U);
  });
  EXPECT_TRUE(waits(waiting));
  EXPECT_EQ(model_.live(), model_.pristine());
  EXPECT_TRUE(program_.end_forward());
  waiting.wait();
  EXPECT_FALSE(program_.end_forward());
  EXPECT_TRUE(program_.switch_to({{"two", 1}}, false).ok());
}

TEST_F(BusyProgram, ForwardsNeverSeeHalfASwitch) {
  std::atomic<bool> stop{false};
  std::atomic<int> torn{0};
  const auto forward = [&] {
    const auto* weights = reinterpret_cast<const float*>(model_.tensors[0].data());
    while (!stop) {
      program_.begin_forward();
      const float first = weights[0];
      for (uint32_t i = 1; i < kNumel; ++i) torn += weights[i] != first;
      program_.end_forward();
    }
  };
  const auto look = [&] {
    while (!stop) {
      const ProgramState state = program_.state();
      if (!program_.verify_base().value().modified.empty() || !program_.check_adapter("one").ok())
        ++torn;
      if (state.active.empty() != (state.digest == hash128("", 0))) ++torn;
    }
  };
  // Its mask is read from weights that others patch.
  const LiveTensor& weight = model_.tensors[0];
  AdapterInput input;
  input.name = "top";
  input.tensors = {tensor_of(weight, ValueKind::target)};
  set_top_magnitude(&input.tensors[0], weight, 100);
  input.tensors[0].set_values(std::vector<float>(100, 3.0F));
  input.tensors[0].set_base(weight.pristine);
  const TestAdapter top = seal(input);
  const auto come_and_go = [&] {
    while (!stop) {
      if (!program_.add_adapter(top.source, {}).ok() || !program_.check_adapter("top").ok() ||
          !program_.remove_adapter("top").ok())
        ++torn;
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) threads.emplace_back(forward);
  threads.emplace_back(come_and_go);
  threads.emplace_back(look);
  threads.emplace_back([&] {
    while (!stop) static_cast<void>(program_.switch_to({{"two", 0.5F}}, false));
  });
  for (int i = 0; i < 150; ++i) {
    ASSERT_TRUE(program_.switch_to({{"one", 1}}).ok());
    ASSERT_TRUE(program_.switch_to({{"one", 0.5F}, {"two", 1}}).ok());
    ASSERT_TRUE(program_.switch_to({}).ok());
    if (i % 50 == 0) {
      ASSERT_TRUE(program_.set_thread_count(static_cast<uint32_t>(1 + i / 50)).ok());
    }
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(torn, 0);
}

TEST(GrowingProgram, TensorsMayBeListedWhileOthersAreAdded) {
  constexpr size_t kCount = 300;
  Model model;
  for (size_t i = 0; i < kCount; ++i) {
    model.tensors.push_back(make_tensor("a tensor with a long name " + std::to_string(i),
                                        Dtype::f32, {1}, encode_values(Dtype::f32, {1})));
  }
  Program program;
  std::future<void> adding = std::async(std::launch::async, [&] { model.register_with(&program); });
  size_t seen = 0;
  while (seen < kCount) {
    seen = 0;
    for (const TensorSpec& spec : program.tensors()) {
      ASSERT_EQ(spec.name, model.tensors[seen].name);
      ++seen;
    }
  }
  adding.wait();
}

TEST(GrowingProgram, DigestsMayBeTakenWhileOthersAreAdded) {
  constexpr uint32_t kEntryCount = 500000;  // enough to be hashed while the next tensor comes
  const std::vector<float> ones(kEntryCount, 1);
  Model model;
  model.tensors.push_back(
      make_tensor("w", Dtype::f32, {kEntryCount}, encode_values(Dtype::f32, ones)));
  std::vector<uint32_t> everywhere(kEntryCount);
  for (uint32_t i = 0; i < kEntryCount; ++i) everywhere[i] = i;
  const std::vector<float> twos(kEntryCount, 2);
  const TestAdapter adapter = simple_adapter("a", model.tensors[0], everywhere, twos);
  Model later;
  for (int i = 0; i < 30; ++i) {
    later.tensors.push_back(make_tensor("a tensor with a long name " + std::to_string(i),
                                        Dtype::f32, {1}, encode_values(Dtype::f32, {1})));
  }
  Program program;
  model.register_with(&program);
  std::atomic<bool> stop{false};
  std::thread look([&] {
    while (!stop) static_cast<void>(program.digest());
  });
  for (size_t i = 0; i < later.tensors.size(); ++i) {
    EXPECT_TRUE(program.add_adapter(adapter.source, {}).ok());
    EXPECT_TRUE(program.switch_to({{"a", 1}}).ok());
    EXPECT_TRUE(program.switch_to({}).ok());
    EXPECT_TRUE(program.remove_adapter("a").ok());
    EXPECT_TRUE(program.add_tensor(later.spec(i)).ok());
  }
  stop = true;
  look.join();
}

}  // namespace
}  // namespace shira::testing
