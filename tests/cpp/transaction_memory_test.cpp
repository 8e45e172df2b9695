// Law I2 when memory runs out: each allocation of each operation fails once, and nothing changes.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "shb_sample.h"
#include "transaction_support.h"

namespace {

std::atomic<bool> is_counting{false};
std::atomic<long> allocations_left{0};  // that may fail and are granted all the same
std::atomic<size_t> ordinary_bytes{0};  // of allocations whose failure would end the process
std::atomic<size_t> largest_ordinary_bytes{0};

void* allocate(size_t size_bytes) {
  if (is_counting) {
    ordinary_bytes += size_bytes;
    if (size_bytes > largest_ordinary_bytes) largest_ordinary_bytes = size_bytes;
  }
  void* memory = std::malloc(size_bytes);
  if (memory == nullptr) std::abort();
  return memory;
}

void* allocate_or_fail(size_t size_bytes) {
  if (is_counting && allocations_left-- <= 0) return nullptr;
  return std::malloc(size_bytes);
}

}  // namespace

// The core allocates what grows with a file or with the weights through the second pair.
void* operator new(size_t size_bytes) { return allocate(size_bytes); }
void* operator new[](size_t size_bytes) { return allocate(size_bytes); }
void* operator new(size_t size_bytes, const std::nothrow_t&) noexcept {
  return allocate_or_fail(size_bytes);
}
void* operator new[](size_t size_bytes, const std::nothrow_t&) noexcept {
  return allocate_or_fail(size_bytes);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }

namespace shira::testing {
namespace {

/// Calls operation() with 0, 1, 2, ... allocations granted, until it succeeds; every failure must
/// be OUT_OF_MEMORY and pass is_unchanged(). Returns the number of failures.
template <typename Operation, typename Check>
int fail_every_allocation(const char* what, const Operation& operation,
                          const Check& check_unchanged) {
  for (int allowed = 0;; ++allowed) {
    allocations_left = allowed;
    is_counting = true;
    const Error error = operation();
    is_counting = false;
    if (error.ok()) return allowed;
    EXPECT_EQ(error.status, Status::OUT_OF_MEMORY)
        << what << ", allocation " << allowed << ": " << error.message;
    check_unchanged();
    if (::testing::Test::HasFailure()) return allowed;
  }
}

/// The moment at which a program was looked at.
class Snapshot {
 public:
  explicit Snapshot(const AttachedProgram& attached)
      : attached_(attached),
        live_(attached.live()),
        state_(attached.program.state()),
        names_(attached.program.adapter_names()) {}

  void expect_unchanged() const {
    EXPECT_EQ(attached_.live(), live_);
    EXPECT_TRUE(same_state(attached_.program.state(), state_));
    EXPECT_EQ(attached_.program.adapter_names(), names_);
  }

 private:
  const AttachedProgram& attached_;
  const std::vector<Bytes> live_;
  const ProgramState state_;
  const std::vector<std::string> names_;
};

class TransactionMemory : public ::testing::Test {
 protected:
  TransactionMemory() : weights_(3), attached_(weights_) {}

  const WeightsFile weights_;
  AttachedProgram attached_;
};

TEST_F(TransactionMemory, OpeningAFile) {
  std::vector<Bytes> files{sample(), pack(), build_adapter(derived_input())};
  for (const auto& [name, adapter] : weights_.adapters()) {
    files.push_back(build_adapter(adapter.input));
  }
  for (const Bytes& bytes : files) {
    const test::TemporaryFile disk(bytes, "x.shb");
    EXPECT_GE(fail_every_allocation(
                  "open", [&] { return AdapterFile::open(disk.path()).error(); }, [] {}),
              1);
    EXPECT_GE(fail_every_allocation(
                  "from_bytes",
                  [&] { return AdapterFile::from_bytes(bytes.data(), bytes.size(), "x").error(); },
                  [] {}),
              1);
  }
}

TEST_F(TransactionMemory, OpeningAFileOfMuchMetadata) {
  FileInput file;
  for (const char* name : {"a", "b"}) {
    AdapterInput adapter = weights_.adapters().begin()->second.input;
    adapter.name = name;
    adapter.metadata = "{\"text\":\"" + std::string(1000000, 'x') + "\"}";
    file.adapters.push_back(std::move(adapter));
  }
  const Bytes bytes = build_file(file);
  const auto open = [&] {
    return AdapterFile::from_bytes(bytes.data(), bytes.size(), "x").error();
  };
  largest_ordinary_bytes = 0;
  EXPECT_GE(fail_every_allocation("open", open, [] {}), 2);
  EXPECT_LT(largest_ordinary_bytes, 100000U);
}

TEST_F(TransactionMemory, Attaching) {
  const WeightsFile other(2);
  const ProgramFile tables = read_program_file(other.path()).value();
  const test::Load flatbuffer(other.path(), 0, tables.loads[0].size_bytes);
  const test::Load constants(other.path(), tables.constants_offset_bytes,
                             tables.constants_size_bytes);
  const auto expect_still_the_loaders = [&] {
    const Result<ProcessMaps> maps = ProcessMaps::read();
    const MemoryArea* area = maps.value().find(reinterpret_cast<uintptr_t>(constants.data()));
    EXPECT_TRUE(area != nullptr && area->shared && !area->writable);
  };
  std::vector<TensorSpec> specs;
  EXPECT_GE(fail_every_allocation(
                "attach",
                [&] {
                  Result<std::vector<TensorSpec>> attached = attach_mapped_file(other.path(), {});
                  if (attached.ok()) specs = std::move(attached.value());
                  return attached.error();
                },
                expect_still_the_loaders),
            3);
  Program program;
  EXPECT_GE(fail_every_allocation(
                "add_tensors", [&] { return program.add_tensors(specs).error(); },
                [&] { EXPECT_TRUE(program.tensors().empty()); }),
            1);
  EXPECT_TRUE(program.switch_to({}).ok());
}

TEST_F(TransactionMemory, AddingAnAdapter) {
  for (const char* name : {"a", "d"}) {
    ASSERT_TRUE(attached_.program.remove_adapter(name).ok());
    const Snapshot before(attached_);
    EXPECT_GE(
        fail_every_allocation(
            "add_adapter",
            [&] {
              return attached_.program.add_adapter(weights_.adapters().at(name).source, {}).error();
            },
            [&] { before.expect_unchanged(); }),
        3);
    EXPECT_TRUE(attached_.program.switch_to({{name, 1}}).ok());
    EXPECT_EQ(attached_.live(), weights_.expected({{name, 1}}));
  }
}

TEST_F(TransactionMemory, Switching) {
  const std::vector<std::vector<Member>> states = {{{"a", 1}},
                                                   {{"b", 0.5F}},
                                                   {{"a", 1}, {"b", 1}, {"d", 0.25F}},
                                                   {{"a", 1}, {"b", 1}},
                                                   {{"c", 1}, {"d", -1}},
                                                   {{"d", 1}},
                                                   {{"a", 1}, {"c", 1}},
                                                   {}};
  int failure_count = 0;
  for (const uint32_t thread_count : {1U, 2U}) {
    ASSERT_TRUE(attached_.program.set_thread_count(thread_count).ok());
    for (const std::vector<Member>& members : states) {
      const Snapshot before(attached_);
      failure_count += fail_every_allocation(
          "switch", [&] { return attached_.program.switch_to(members).error(); },
          [&] { before.expect_unchanged(); });
      ASSERT_EQ(attached_.live(), weights_.expected(members)) << "the retry does all of it";
    }
  }
  EXPECT_GT(failure_count, 100);
}

TEST_F(TransactionMemory, EverythingElse) {
  ASSERT_TRUE(attached_.program.switch_to({{"a", 1}, {"d", 1}}).ok());
  const Snapshot before(attached_);
  const auto expect_unchanged = [&] { before.expect_unchanged(); };
  Program& program = attached_.program;
  fail_every_allocation(
      "check_adapter", [&] { return program.check_adapter("b").error(); }, expect_unchanged);
  fail_every_allocation(
      "verify_base", [&] { return program.verify_base().error(); }, expect_unchanged);
  fail_every_allocation(
      "threads", [&] { return program.set_thread_count(2).error(); }, expect_unchanged);
  fail_every_allocation(
      "hard_revert", [&] { return program.hard_revert().error(); }, expect_unchanged);
  EXPECT_EQ(attached_.live(), weights_.expected({}));
  fail_every_allocation(
      "remove_adapter", [&] { return program.remove_adapter("c").error(); }, [] {});
  EXPECT_TRUE(program.switch_to({{"a", 1}, {"b", 1}}).ok());
  EXPECT_EQ(attached_.live(), weights_.expected({{"a", 1}, {"b", 1}}));
}

/// What one round of everything takes from the ordinary allocator, whose failure would end the
/// process: for adapters of `entry_count` entries.
struct Ordinary {
  size_t total_bytes;
  size_t largest_bytes;
};

Ordinary ordinary_allocations(uint32_t entry_count) {
  std::mt19937_64 random(3);
  const LiveTensor base =
      make_tensor("w", Dtype::f32, {4096, 64}, random_bytes(random, Dtype::f32, 4096 * 64));
  Model model;
  model.tensors.push_back(base);
  std::vector<Bytes> files;
  for (uint32_t a = 0; a < 2; ++a) {
    std::vector<uint32_t> index;
    for (uint32_t i = 0; i < entry_count; ++i) index.push_back(i * 8 + a * 4);
    files.push_back(build_adapter(
        simple_adapter(a == 0 ? "a" : "b", base, index, std::vector<float>(entry_count, 1.5F))
            .input));
  }
  Program program;
  model.register_with(&program);
  ordinary_bytes = largest_ordinary_bytes = 0;
  allocations_left = 1L << 40;
  is_counting = true;
  bool is_ok = true;
  for (const Bytes& bytes : files) {
    Result<std::shared_ptr<const AdapterFile>> file =
        AdapterFile::from_bytes(bytes.data(), bytes.size(), "x");
    is_ok = is_ok && file.ok() && program.add_adapter(adapter_of(file.value(), 0), {}).ok();
  }
  for (const std::vector<Member>& members :
       {std::vector<Member>{{"a", 1}}, {{"b", 0.5F}}, {{"a", 1}, {"b", 1}}, {{"b", 1}}, {}}) {
    is_ok = is_ok && program.switch_to(members).ok() && program.verify_base().ok();
  }
  is_counting = false;
  EXPECT_TRUE(is_ok);
  return {ordinary_bytes, largest_ordinary_bytes};
}

TEST(TransactionPolicy, OnlyWhatIsSmallComesFromTheAllocatorThatCannotFail) {
  ordinary_allocations(10);  // what is made once per process
  const Ordinary few = ordinary_allocations(10);
  const Ordinary many = ordinary_allocations(30000);
  EXPECT_EQ(few.total_bytes, many.total_bytes) << "it does not grow with the entries";
  EXPECT_LT(many.largest_bytes, 4096U);
}

}  // namespace
}  // namespace shira::testing
