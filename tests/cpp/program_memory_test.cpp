// Law I2 when memory runs out: every allocation of a switch fails once, and nothing changes.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "runtime_support.h"

namespace {

std::atomic<bool> counting{false};
std::atomic<int> allocations_left{0};

}  // namespace

// What Array<T> uses, and nothing else here does.
void* operator new[](size_t size_bytes, const std::nothrow_t&) noexcept {
  if (counting && allocations_left-- <= 0) return nullptr;
  return std::malloc(size_bytes);
}
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
void* operator new[](size_t size_bytes) {
  void* memory = std::malloc(size_bytes);
  if (memory == nullptr) std::abort();
  return memory;
}

namespace shira::testing {
namespace {

TEST(ProgramMemory, EveryFailedAllocationLeavesTheStateAsItWas) {
  std::mt19937_64 random(5);
  Model model;
  for (int i = 0; i < 3; ++i) {
    model.tensors.push_back(make_tensor("w" + std::to_string(i), Dtype::f32, {40, 40},
                                        random_bytes(random, Dtype::f32, 1600)));
  }
  Program program;
  model.register_with(&program);
  for (const char* name : {"x", "y", "z"}) {
    ASSERT_TRUE(
        program.add_adapter(random_adapter(random, name, model, ValueKind::target, 0.1).source, {})
            .ok());
  }
  const std::vector<std::vector<Member>> states = {
      {{"x", 1}}, {{"y", 0.5F}}, {{"x", 1}, {"y", 1}, {"z", 0.5F}}, {{"z", 1}}, {}};
  int failure_count = 0;
  for (const std::vector<Member>& members : states) {
    const std::vector<Bytes> bytes = model.live();
    const ProgramState before = program.state();
    for (int allowed = 0;; ++allowed) {
      allocations_left = allowed;
      counting = true;
      const Result<SwitchReport> result = program.switch_to(members);
      counting = false;
      if (result.ok()) break;
      ++failure_count;
      ASSERT_EQ(result.error().status, Status::OUT_OF_MEMORY) << result.error().message;
      ASSERT_EQ(model.live(), bytes);
      const ProgramState after = program.state();
      ASSERT_EQ(after.epoch, before.epoch);
      ASSERT_EQ(after.digest, before.digest);
      ASSERT_EQ(after.active.size(), before.active.size());
    }
  }
  EXPECT_GT(failure_count, 30);
  EXPECT_EQ(model.live(), model.pristine());
}

// What is said about a wrong base is found out after the stores were undone, and takes memory, too.
TEST(ProgramMemory, AWrongBaseIsUndoneWithoutMemory) {
  std::mt19937_64 random(4);
  Model model;
  model.tensors.push_back(
      make_tensor("w", Dtype::f32, {300, 300}, random_bytes(random, Dtype::f32, 90000)));
  AdapterInput input;
  input.name = "wrong";
  input.tensors = {random_tensor(random, model.tensors[0], ValueKind::target, 0.3)};
  input.tensors[0].fingerprint[0] ^= 1;
  Program program;
  model.register_with(&program);
  ASSERT_TRUE(program.add_adapter(seal(input).source, {}).ok());
  int failure_count = 0;
  for (Status status = Status::OUT_OF_MEMORY; status != Status::BASE_MISMATCH; ++failure_count) {
    allocations_left = failure_count;
    counting = true;
    status = program.switch_to({{"wrong", 1}}).error().status;
    counting = false;
    ASSERT_TRUE(status == Status::OUT_OF_MEMORY || status == Status::BASE_MISMATCH);
    ASSERT_EQ(model.live(), model.pristine());
    ASSERT_TRUE(program.active().empty());
  }
  EXPECT_GT(failure_count, 2);
}

}  // namespace
}  // namespace shira::testing
