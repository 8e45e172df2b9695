// Tests of originals that are left in the base's file: every state as if they were kept, and
// refusals when the file is no longer what it was.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdio>
#include <random>
#include <vector>

#include "attach/raw_span.h"
#include "transaction_support.h"

namespace shira::testing {
namespace {

class OriginalsInFile : public ::testing::Test {
 protected:
  OriginalsInFile() : weights_(3, 80), attached_(weights_) {
    EXPECT_TRUE(program().set_originals(Originals::file).ok());
  }

  Program& program() { return attached_.program; }

  ProgramMemory memory() { return program().memory().value(); }

  void expect(const std::vector<Member>& members) {
    const Result<SwitchReport> result = program().switch_to(members);
    ASSERT_TRUE(result.ok()) << result.error().message;
    EXPECT_TRUE(attached_.live() == weights_.expected(members));
    EXPECT_EQ(memory().originals_bytes, 0U) << "nothing is kept";
  }

  /// The switch, the check and everything else that needs originals fail, and change nothing.
  void expect_refused(Status status) {
    const ProgramState before = program().state();
    const std::vector<Bytes> live = attached_.live();
    for (const std::vector<Member>& members :
         {std::vector<Member>{}, {{"b", 1}}, {{"a", 0.5F}}, {{"a", 1}, {"d", 1}}}) {
      const Result<SwitchReport> result = program().switch_to(members);
      ASSERT_FALSE(result.ok());
      EXPECT_EQ(result.error().status, status) << result.error().message;
      EXPECT_EQ(result.error().tensor, "w0");
    }
    EXPECT_FALSE(program().verify_base().ok());
    EXPECT_TRUE(same_state(program().state(), before));
    EXPECT_TRUE(attached_.live() == live);
    EXPECT_EQ(memory().originals_bytes, 0U);
  }

  /// Changes the base value at the first entry that "a" has in w0, in the file.
  void change_file() const {
    const uint32_t index = weights_.adapters().at("a").input.tensors[0].index[0];
    const uint64_t data_bytes = 3 * 80 * page_bytes();
    const int descriptor = open(weights_.path().c_str(), O_WRONLY);
    const uint64_t offset = weights_.content().size() - data_bytes + index * sizeof(float);
    const uint8_t changed = weights_.content()[offset] ^ 1;
    ASSERT_EQ(pwrite(descriptor, &changed, 1, static_cast<off_t>(offset)), 1);
    close(descriptor);
  }

  const WeightsFile weights_;
  AttachedProgram attached_;
};

TEST_F(OriginalsInFile, GiveTheSameStatesAsThoseInMemory) {
  AttachedProgram kept(weights_);
  std::mt19937_64 random(3);
  const std::vector<std::vector<Member>> states = {
      {},         {{"a", 1}},           {{"b", 1}},           {{"a", 0.5F}},
      {{"d", 2}}, {{"a", 1}, {"d", 1}}, {{"c", 1}, {"b", 1}}, {{"a", 1}, {"b", -1}, {"d", 0.25F}}};
  for (int i = 0; i < 60; ++i) {
    const std::vector<Member>& members = states[random() % states.size()];
    ASSERT_NO_FATAL_FAILURE(expect(members));
    const Result<SwitchReport> other = kept.program.switch_to(members);
    ASSERT_TRUE(other.ok());
    EXPECT_TRUE(same_state(program().state(), kept.program.state())) << "epoch and digest";
    if (i % 10 == 0) {
      EXPECT_TRUE(program().verify_base().value().modified.empty());
      for (const char* name : {"a", "b", "c", "d"})
        EXPECT_TRUE(program().check_adapter(name).ok()) << name;
    }
  }
  EXPECT_GT(kept.program.memory().value().originals_bytes, 0U);
  EXPECT_EQ(kept.program.memory().value().source_read_bytes, 0U);
  EXPECT_GT(memory().source_read_bytes, 0U);
  EXPECT_LE(memory().source_cold_bytes, memory().source_read_bytes);
  EXPECT_TRUE(weights_.read() == weights_.content());
}

TEST_F(OriginalsInFile, EachSwitchReportsWhatItRead) {
  const uint64_t before = memory().source_read_bytes;
  const SwitchReport away = program().switch_to({{"a", 1}}).value();
  EXPECT_EQ(away.source_read_bytes, 0U) << "the first store saw the base itself";
  const SwitchReport back = program().switch_to({}).value();
  EXPECT_GT(back.source_read_bytes, 0U);
  EXPECT_LE(back.source_cold_bytes, back.source_read_bytes);
  EXPECT_EQ(memory().source_read_bytes, before + back.source_read_bytes);
}

TEST_F(OriginalsInFile, MayBeTakenBackIntoMemory) {
  expect({{"a", 1}});
  ASSERT_TRUE(program().set_originals(Originals::memory).ok());
  EXPECT_GT(memory().originals_bytes, 0U);
  EXPECT_GT(memory().source_read_bytes, 0U);
  const uint64_t read_bytes = memory().source_read_bytes;
  ASSERT_TRUE(program().switch_to({}).ok());
  EXPECT_TRUE(attached_.live() == weights_.expected({}));
  EXPECT_EQ(memory().source_read_bytes, read_bytes);
  ASSERT_TRUE(program().set_originals(Originals::file).ok());
  EXPECT_EQ(memory().originals_bytes, 0U);
  expect({{"b", 1}});
  EXPECT_TRUE(program().hard_revert().ok());
  EXPECT_TRUE(attached_.live() == weights_.expected({}));
}

TEST_F(OriginalsInFile, AFileThatWasModifiedIsRefused) {
  expect({{"a", 1}});
  usleep(20000);  // the clock of file times is coarse
  change_file();
  expect_refused(Status::DETACHED);
}

TEST_F(OriginalsInFile, AFileThatWasModifiedSecretlyIsRefusedByItsValues) {
  expect({{"a", 1}});
  struct stat before{};
  ASSERT_EQ(stat(weights_.path().c_str(), &before), 0);
  change_file();
  const timespec times[2] = {before.st_atim, before.st_mtim};
  ASSERT_EQ(utimensat(AT_FDCWD, weights_.path().c_str(), times, 0), 0);
  expect_refused(Status::BASE_MISMATCH);
  weights_.restore();
  ASSERT_EQ(utimensat(AT_FDCWD, weights_.path().c_str(), times, 0), 0);
  expect({});
}

TEST_F(OriginalsInFile, AFileThatWasReplacedStaysTheSource) {
  expect({{"a", 1}});
  const std::string other = weights_.path() + ".new";
  test::TemporaryFile::write(other, test::Bytes(100, 1));
  ASSERT_EQ(rename(other.c_str(), weights_.path().c_str()), 0);
  expect({{"b", 0.5F}});
  expect({});
}

TEST_F(OriginalsInFile, AStoreOfSomebodyElseIsFoundAtTheNextSwitch) {
  expect({{"a", 1}});
  expect({});
  const uint32_t index = weights_.adapters().at("a").input.tensors[1].index[0];
  attached_.data(1)[index * sizeof(float)] ^= 1;
  const Error error = program().switch_to({{"a", 1}}).error();
  EXPECT_EQ(error.status, Status::BASE_MISMATCH);
  EXPECT_EQ(error.tensor, "w1");
}

TEST(OriginalsOfOthersMemory, StayInMemory) {
  std::vector<float> weights(64, 1);
  TensorSpec spec;
  spec.name = "w";
  spec.dims = {64};
  spec.data = reinterpret_cast<uint8_t*>(weights.data());
  spec.region = make_raw_region();
  Program program;
  ASSERT_TRUE(program.add_tensor(spec).ok());
  const Error error = program.set_originals(Originals::file).error();
  EXPECT_EQ(error.status, Status::NOT_SUPPORTED);
  EXPECT_EQ(error.tensor, "w");
  EXPECT_EQ(program.originals(), Originals::memory);
  Program empty;
  ASSERT_TRUE(empty.set_originals(Originals::file).ok());
  EXPECT_EQ(empty.add_tensor(spec).error().status, Status::NOT_SUPPORTED);
}

}  // namespace
}  // namespace shira::testing
