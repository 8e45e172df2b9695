// Tests of the ExecuTorch engine in C++: passes, switches meanwhile, refusals, forks.
// SPDX-License-Identifier: Apache-2.0
#include "executorch/executorch_program.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "format/adapter_file.h"

namespace shira {
namespace {

const std::string kProgram = SHIRA_TESTS_DIR "/programs/layers.pte";
const std::string kAdapter = SHIRA_TESTS_DIR "/programs/layers.shb";
// A program and an adapter "new" for each kind of weight that XNNPACK packs.
const std::string kPacked = SHIRA_TESTS_DIR "/programs/packed/";
constexpr int kColumns = 16;

std::unique_ptr<ExecutorchProgram> load(const ExecutorchProgram::Options& options = {},
                                        const std::string& path = kProgram) {
  Result<std::unique_ptr<ExecutorchProgram>> program = ExecutorchProgram::load(path, options);
  if (!program.ok()) {
    ADD_FAILURE() << program.error().message;
    return nullptr;
  }
  return std::move(program.value());
}

void add_adapter(Program& program, const std::string& path = kAdapter) {
  Result<std::shared_ptr<const AdapterFile>> file = AdapterFile::open(path);
  ASSERT_TRUE(file.ok()) << file.error().message;
  const Result<std::string> name = program.add_adapter(adapter_of(file.value(), 0), {});
  ASSERT_TRUE(name.ok()) << name.error().message;
}

std::vector<float> states(int64_t rows) {
  std::vector<float> values(static_cast<size_t>(rows * kColumns));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 7) - 3.0F;
  return values;
}

Value input_of(const std::vector<float>& values) {
  return Value::of_tensor(ElementType::float32,
                          {static_cast<int64_t>(values.size()) / kColumns, kColumns},
                          values.data());
}

/// The bytes of a pass's one output.
std::string bytes_of(const Result<std::vector<Value>>& outputs) {
  if (!outputs.ok()) return "error: " + outputs.error().message;
  const Value& output = outputs.value().front();
  return std::string(static_cast<const char*>(output.data),
                     static_cast<size_t>(output.size_bytes()));
}

TEST(ExecutorchProgram, MethodsAreDescribed) {
  const auto program = load();
  ASSERT_NE(program, nullptr);
  const std::vector<MethodInfo> methods = program->methods();
  ASSERT_EQ(methods.size(), 2U);
  EXPECT_EQ(methods[0].name, "doubled");
  EXPECT_EQ(methods[1].name, "forward");
  ASSERT_EQ(methods[1].inputs.size(), 1U);
  EXPECT_EQ(methods[1].inputs[0].kind, Value::Kind::tensor);
  EXPECT_EQ(methods[1].inputs[0].element_type, ElementType::float32);
  EXPECT_EQ(methods[1].inputs[0].sizes, (std::vector<int64_t>{5, kColumns}));
  EXPECT_TRUE(methods[1].backends.empty());
  ASSERT_EQ(program->program().tensors().size(), 2U);
  EXPECT_EQ(program->program().tensors()[1].name, "layer.weight");
  EXPECT_TRUE(program->packed_weights().empty());
  const LoadReport& report = program->load_report();
  EXPECT_GT(report.methods_ns, 0U);
  EXPECT_GE(report.total_ns,
            report.open_ns + report.methods_ns + report.compare_ns + report.attach_ns);
}

TEST(ExecutorchProgram, SwitchingChangesWhatEveryMethodComputesWith) {
  const auto program = load();
  ASSERT_NE(program, nullptr);
  const std::vector<float> values = states(3);
  const std::string base = bytes_of(program->forward("forward", {input_of(values)}));
  const std::string doubled_base = bytes_of(program->forward("doubled", {input_of(values)}));
  ASSERT_EQ(base.size(), 3 * 8 * sizeof(float));
  add_adapter(program->program());
  ASSERT_TRUE(program->program().switch_to({{"layers", 1.0F}}).ok());
  EXPECT_NE(bytes_of(program->forward("forward", {input_of(values)})), base);
  EXPECT_NE(bytes_of(program->forward("doubled", {input_of(values)})), doubled_base);
  ASSERT_TRUE(program->program().switch_to({}).ok());
  EXPECT_EQ(bytes_of(program->forward("forward", {input_of(values)})), base);
  EXPECT_EQ(bytes_of(program->forward("doubled", {input_of(values)})), doubled_base);
  const Result<VerifyReport> verified = program->program().verify_base();
  ASSERT_TRUE(verified.ok());
  EXPECT_TRUE(verified.value().modified.empty());
}

TEST(ExecutorchProgram, HardRevertDropsTheCopies) {
  const auto program = load();
  ASSERT_NE(program, nullptr);
  const std::vector<float> values = states(1);
  const std::string base = bytes_of(program->forward("forward", {input_of(values)}));
  add_adapter(program->program());
  ASSERT_TRUE(program->program().switch_to({{"layers", -2.0F}}).ok());
  ASSERT_TRUE(program->program().hard_revert().ok());
  EXPECT_EQ(bytes_of(program->forward("forward", {input_of(values)})), base);
}

TEST(ExecutorchProgram, InputsThatDoNotFitAreRefused) {
  const auto program = load();
  ASSERT_NE(program, nullptr);
  const std::vector<float> values = states(6);
  const auto status = [&](const std::string& method, const std::vector<Value>& inputs) {
    return program->forward(method, inputs).error().status;
  };
  EXPECT_EQ(status("forward", {}), Status::INVALID_ARGUMENT);
  EXPECT_EQ(status("forward", {input_of(values)}), Status::INVALID_ARGUMENT) << "six rows";
  EXPECT_EQ(status("forward", {Value::of_integer(1)}), Status::INVALID_ARGUMENT);
  EXPECT_EQ(status("forward", {Value::of_tensor(ElementType::float32, {1, 16}, nullptr)}),
            Status::INVALID_ARGUMENT);
  EXPECT_EQ(status("forward", {Value::of_tensor(ElementType::int32, {1, 16}, values.data())}),
            Status::INVALID_ARGUMENT);
  EXPECT_EQ(status("forward", {Value::of_tensor(ElementType::float32, {-1, 16}, values.data())}),
            Status::INVALID_ARGUMENT);
  EXPECT_EQ(status("backward", {input_of(values)}), Status::INVALID_ARGUMENT);
  EXPECT_TRUE(program->program().switch_to({}, false).ok()) << "the gate is open";
}

TEST(ExecutorchProgram, FilesThatCannotBeLoadedAreRefused) {
  const auto status = [](const std::string& path, const ExecutorchProgram::Options& options) {
    return ExecutorchProgram::load(path, options).error().status;
  };
  EXPECT_EQ(status(kProgram + ".none", {}), Status::IO_ERROR);
  EXPECT_EQ(status(kAdapter, {}), Status::BAD_PROGRAM_FILE);
  EXPECT_EQ(status(kProgram, {{kProgram}, {}}), Status::BAD_PROGRAM_FILE) << "no data file";
  EXPECT_EQ(status(kProgram, {{}, {"backward"}}), Status::INVALID_ARGUMENT);
}

/// Runs passes on several threads while `adapter` comes and goes: each has to compute with one of
/// its states, from the first weight to the last.
void run_while_switching(ExecutorchProgram& program, const std::string& adapter,
                         const std::vector<std::string>& methods, const Value& input) {
  const std::vector<std::vector<Member>> sets = {{}, {{adapter, 1.0F}}, {{adapter, -3.0F}}};
  std::vector<std::set<std::string>> whole(methods.size());
  for (const std::vector<Member>& set : sets) {
    ASSERT_TRUE(program.program().switch_to(set).ok());
    for (size_t i = 0; i < methods.size(); ++i)
      whole[i].insert(bytes_of(program.forward(methods[i], {input})));
  }
  ASSERT_EQ(whole[0].size(), sets.size());
  std::atomic<bool> stop{false};
  std::atomic<int> mixture_count{0};
  std::vector<std::thread> threads;
  for (size_t i = 0; i < 4; ++i) {
    threads.emplace_back([&, method = i % methods.size()] {
      while (!stop) {
        const std::string output = bytes_of(program.forward(methods[method], {input}));
        mixture_count += whole[method].count(output) == 0 ? 1 : 0;
      }
    });
  }
  for (size_t i = 0; i < 4000; ++i) {
    const bool waits = i % 4 != 0;
    const Result<SwitchReport> report =
        program.program().switch_to(sets[i * 7 % sets.size()], waits);
    EXPECT_TRUE(report.ok() || (!waits && report.error().status == Status::BUSY));
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(mixture_count, 0);
}

TEST(ExecutorchProgram, PassesMeanwhileSeeWholeStates) {
  const auto program = load();
  ASSERT_NE(program, nullptr);
  add_adapter(program->program());
  const std::vector<float> values = states(5);
  run_while_switching(*program, "layers", {"forward", "doubled"}, input_of(values));
}

TEST(ExecutorchProgram, PassesMeanwhileSeeWholeStatesOfPackedWeights) {
  for (const std::string kind : {"f32", "int4_group"}) {
    const auto program = load({}, kPacked + kind + ".pte");
    ASSERT_NE(program, nullptr);
    ASSERT_TRUE(program->program().set_thread_count(2).ok());
    add_adapter(program->program(), kPacked + kind + ".shb");
    std::vector<float> values(size_t{3} * 64);
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 7) - 3.0F;
    run_while_switching(*program, "new", {"forward"},
                        Value::of_tensor(ElementType::float32, {3, 64}, values.data()));
    ASSERT_TRUE(program->program().switch_to({}).ok());
    const Result<VerifyReport> verified = program->program().verify_base();
    ASSERT_TRUE(verified.ok());
    EXPECT_TRUE(verified.value().modified.empty());
  }
}

TEST(ExecutorchProgram, APassWaitsForASwitchThatWaits) {
  const auto program = load();
  ASSERT_NE(program, nullptr);
  add_adapter(program->program());
  const std::vector<float> values = states(1);
  const std::string base = bytes_of(program->forward("forward", {input_of(values)}));
  program->program().begin_forward();
  std::atomic<int> done_count{0};
  std::thread switcher([&] {
    EXPECT_TRUE(program->program().switch_to({{"layers", 1.0F}}).ok());
    ++done_count;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // until it waits at the gate
  std::string output;
  std::thread runner([&] {
    output = bytes_of(program->forward("forward", {input_of(values)}));
    ++done_count;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(done_count, 0);
  // Who has begun a pass runs it without asking again.
  EXPECT_EQ(bytes_of(program->execute("forward", {input_of(values)})), base);
  program->program().end_forward();
  switcher.join();
  runner.join();
  EXPECT_NE(output, base);
}

TEST(ExecutorchProgram, OutputsOutliveTheProgram) {
  auto program = load();
  ASSERT_NE(program, nullptr);
  const std::vector<float> values = states(2);
  const Result<std::vector<Value>> outputs = program->forward("forward", {input_of(values)});
  const std::string before = bytes_of(outputs);
  program.reset();
  EXPECT_EQ(bytes_of(outputs), before);
}

#ifndef __SANITIZE_THREAD__  // which gives up a forked child of a process with threads
TEST(ExecutorchProgram, AForkedChildSwitchesItsOwnCopy) {
  const auto program = load();
  ASSERT_NE(program, nullptr);
  add_adapter(program->program());
  const std::vector<float> values = states(1);
  const std::string base = bytes_of(program->forward("forward", {input_of(values)}));
  const pid_t child = fork();
  if (child == 0) {
    const bool is_switched = program->program().switch_to({{"layers", 1.0F}}).ok() &&
                             bytes_of(program->forward("forward", {input_of(values)})) != base;
    _exit(is_switched ? 0 : 1);
  }
  int code = -1;
  ASSERT_EQ(waitpid(child, &code, 0), child);
  EXPECT_EQ(code, 0);
  EXPECT_EQ(bytes_of(program->forward("forward", {input_of(values)})), base);
}

// The parent's packed weights are nobody else's to change.
TEST(ExecutorchProgram, AForkedChildCannotSwitchPackedWeights) {
  const auto program = load({}, kPacked + "int8.pte");
  ASSERT_NE(program, nullptr);
  add_adapter(program->program(), kPacked + "int8.shb");
  const std::vector<float> values(64, 0.5F);
  const Value input = Value::of_tensor(ElementType::float32, {1, 64}, values.data());
  const std::string base = bytes_of(program->forward("forward", {input}));
  const pid_t child = fork();
  if (child == 0) {
    const bool is_refused =
        program->program().switch_to({{"new", 1.0F}}).error().status == Status::DETACHED &&
        program->program().verify_base().error().status == Status::DETACHED &&
        program->forward("forward", {input}).error().status == Status::NOT_SUPPORTED;
    _exit(is_refused ? 0 : 1);
  }
  int code = -1;
  ASSERT_EQ(waitpid(child, &code, 0), child);
  EXPECT_EQ(code, 0);
  EXPECT_EQ(bytes_of(program->forward("forward", {input})), base);
  EXPECT_TRUE(program->program().switch_to({{"new", 1.0F}}).ok());
  EXPECT_NE(bytes_of(program->forward("forward", {input})), base);
}
#endif

TEST(ExecutorchProgram, MethodsThatHoldNamesAreNone) {
  const auto program = load({}, kPacked + "f32.pte");
  ASSERT_NE(program, nullptr);
  ASSERT_EQ(program->methods().size(), 1U);
  EXPECT_EQ(program->methods()[0].name, "forward");
  EXPECT_EQ(program->forward("shira_packed_weights", {}).error().status, Status::INVALID_ARGUMENT);
}

}  // namespace
}  // namespace shira
