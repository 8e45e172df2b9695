// Switches in packed weights and tables of codes, against programs with these codes in their files.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "executorch/executorch_program.h"
#include "format/adapter_file.h"

namespace shira {
namespace {

// make_programs.py in tests/programs writes them. Emulators of other processors, which pack
// differently, run this too: tests/arm/run, tests/x86/run.
const std::string kFolder = SHIRA_TESTS_DIR "/programs/packed/";
const std::vector<std::string> kKinds = {"f32",        "f16",          "int8",
                                         "int4_group", "int4_channel", "tables"};
constexpr int64_t kColumns = 64;
constexpr std::array<int64_t, 3> kRowCounts = {1, 3, 6};  // fill no tile of rows, or one and some

std::unique_ptr<ExecutorchProgram> load(const std::string& name) {
  Result<std::unique_ptr<ExecutorchProgram>> program =
      ExecutorchProgram::load(kFolder + name + ".pte", {});
  if (!program.ok()) {
    ADD_FAILURE() << name << ": " << program.error().message;
    return nullptr;
  }
  return std::move(program.value());
}

/// The numbers from -3 to 3 in turn, as the program takes them.
std::vector<uint8_t> input_bytes(int64_t rows, bool is_f16) {
  constexpr std::array<uint16_t, 4> kF16 = {0x0000, 0x3C00, 0x4000, 0x4200};  // 0, 1, 2, 3
  std::vector<uint8_t> bytes;
  for (int i = 0; i < rows * kColumns; ++i) {
    const int number = i * i % 7 - 3;
    if (is_f16) {
      const auto bits = static_cast<uint16_t>(kF16[static_cast<size_t>(std::abs(number))] |
                                              (number < 0 ? 0x8000 : 0));
      const auto* raw = reinterpret_cast<const uint8_t*>(&bits);
      bytes.insert(bytes.end(), raw, raw + sizeof(bits));
    } else {
      const auto value = static_cast<float>(number);
      const auto* raw = reinterpret_cast<const uint8_t*>(&value);
      bytes.insert(bytes.end(), raw, raw + sizeof(value));
    }
  }
  return bytes;
}

/// What the program computes, for all numbers of rows, byte for byte.
std::string outputs_of(ExecutorchProgram& program, bool is_f16) {
  std::string all;
  for (const int64_t rows : kRowCounts) {
    const std::vector<uint8_t> bytes = input_bytes(rows, is_f16);
    const ElementType type = is_f16 ? ElementType::float16 : ElementType::float32;
    const Result<std::vector<Value>> outputs =
        program.forward("forward", {Value::of_tensor(type, {rows, kColumns}, bytes.data())});
    if (!outputs.ok()) return "error: " + outputs.error().message;
    const Value& output = outputs.value().front();
    all.append(static_cast<const char*>(output.data), static_cast<size_t>(output.size_bytes()));
  }
  return all;
}

/// The same of a program that another process loads and runs. REQUIRES: nothing was run in this
/// process, so that there are no threads of a delegate to be missed.
std::string outputs_elsewhere(const std::string& name, bool is_f16) {
  int ends[2];
  if (pipe(ends) != 0) return "no pipe";
  const pid_t child = fork();
  if (child == 0) {
    const auto program = load(name);
    const std::string outputs = program ? outputs_of(*program, is_f16) : "not loaded";
    const bool is_written = write(ends[1], outputs.data(), outputs.size()) >= 0;
    _exit(is_written ? 0 : 1);
  }
  close(ends[1]);
  std::string outputs;
  std::array<char, 4096> part;
  ssize_t count = 0;
  while ((count = read(ends[0], part.data(), part.size())) > 0)
    outputs.append(part.data(), static_cast<size_t>(count));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  return status == 0 ? outputs : "the process failed";
}

class PackedSwitch : public testing::TestWithParam<std::string> {
 protected:
  static void SetUpTestSuite() {
    for (const std::string& kind : kKinds)
      fresh_.push_back(outputs_elsewhere(kind + "-merged", kind == "f16"));
  }
  static void TearDownTestSuite() { fresh_.clear(); }

  bool is_f16() const { return GetParam() == "f16"; }
  const std::string& fresh_outputs() const {
    size_t i = 0;
    while (kKinds[i] != GetParam()) ++i;
    return fresh_[i];
  }

  static std::vector<std::string> fresh_;  // outputs of programs with the adapter in their files
};

std::vector<std::string> PackedSwitch::fresh_;

TEST_P(PackedSwitch, IsAFreshPackingAndBackTheBase) {
  const auto loaded = load(GetParam());
  ASSERT_NE(loaded, nullptr);
  Program& program = loaded->program();
  const Result<std::shared_ptr<const AdapterFile>> file =
      AdapterFile::open(kFolder + GetParam() + ".shb");
  ASSERT_TRUE(file.ok()) << file.error().message;
  const Result<std::string> added = program.add_adapter(adapter_of(file.value(), 0), {});
  if (is_f16() && loaded->packed_weights().empty()) {
    // This processor computes in f32 what is f16, from packed weights that nobody can reach.
    EXPECT_FALSE(added.ok());
    for (const char* name : {"wide.weight", "narrow.weight"})
      EXPECT_NE(loaded->unpatchable().at(name).find("no kernel for f16"), std::string::npos);
    return;
  }
  ASSERT_TRUE(added.ok()) << added.error().message;
  const bool is_packed = GetParam() != "tables";
  EXPECT_EQ(loaded->packed_weights().size(), is_packed ? 2U : 0U);
  const std::string base = outputs_of(*loaded, is_f16());
  ASSERT_EQ(base.size(), 10U * (is_packed ? 20U : 52U) * (is_f16() ? 2U : 4U)) << base;
  EXPECT_NE(base, fresh_outputs());
  const std::vector<std::vector<Member>> sets = {
      {{"new", 1.0F}}, {}, {{"new", 0.5F}}, {{"new", -2.0F}}, {{"new", 1.0F}}, {}};
  for (const std::vector<Member>& set : sets) {
    const Result<SwitchReport> report = program.switch_to(set);
    ASSERT_TRUE(report.ok()) << report.error().message;
    const std::string outputs = outputs_of(*loaded, is_f16());
    const float scale = set.empty() ? 0.0F : set.front().scale;
    EXPECT_EQ(outputs == base, scale == 0.0F) << "at scale " << scale;
    EXPECT_EQ(outputs == fresh_outputs(), scale == 1.0F) << "at scale " << scale;
    // All codes and, beside them, all sums are what they should be.
    const Result<VerifyReport> verified = program.verify_base();
    ASSERT_TRUE(verified.ok()) << verified.error().message;
    EXPECT_TRUE(verified.value().modified.empty());
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, PackedSwitch, testing::ValuesIn(kKinds),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace shira
