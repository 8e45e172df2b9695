// Law I2 when the base's file is truncated, at every moment of a switch: an error, never SIGBUS.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <csignal>

#include "attach/raw_span.h"
#include "transaction_support.h"

namespace shira::testing {
namespace {

class TransactionTruncation : public ::testing::Test {
 protected:
  static constexpr int kTensorCount = 3;
  static constexpr size_t kTensorPages = 8;

  TransactionTruncation() : weights_(kTensorCount, kTensorPages), attached_(weights_) {}

  uint64_t data_offset() const {
    return weights_.content().size() - kTensorCount * kTensorPages * page_bytes();
  }

  /// Leaves w0 and about half of w1, in whole pages.
  void truncate_half() const {
    const uint64_t middle = data_offset() + (kTensorPages + kTensorPages / 2) * page_bytes();
    weights_.truncate_to(middle & ~(uint64_t{page_bytes()} - 1));
  }

  /// The bytes of whole pages that truncate_half() leaves.
  Bytes survivors() const {
    const uint8_t* begin = attached_.data(0);
    return Bytes(begin, begin + (kTensorPages + kTensorPages / 2 - 1) * page_bytes());
  }

  /// The switch must fail because `tensor` went away, and change nothing but what the kernel took.
  void expect_detached(const std::vector<Member>& members, const std::string& tensor) {
    const ProgramState before = attached_.program.state();
    const Bytes bytes = survivors();
    const Result<SwitchReport> result = attached_.program.switch_to(members);
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().status, Status::DETACHED) << result.error().message;
    EXPECT_EQ(result.error().tensor, tensor);
    EXPECT_NE(result.error().message.find("truncated"), std::string::npos)
        << result.error().message;
    EXPECT_TRUE(same_state(attached_.program.state(), before));
    EXPECT_EQ(survivors(), bytes);
    expect_only_file_mapped();
  }

  /// No empty page was left where the file belongs.
  void expect_only_file_mapped() const {
    const Result<ProcessMaps> maps = ProcessMaps::read();
    for (int i = 0; i < kTensorCount; ++i) {
      const auto begin = reinterpret_cast<uintptr_t>(attached_.data(i));
      for (uintptr_t page = begin; page < begin + kTensorPages * page_bytes();
           page += page_bytes()) {
        const MemoryArea* area = maps.value().find(page);
        ASSERT_NE(area, nullptr);
        EXPECT_EQ(area->path, weights_.path()) << "page " << (page - begin) / page_bytes();
      }
    }
  }

  /// With the file made whole again, everything works as on the first day.
  void expect_recovery() {
    attached_.region->after_check = attached_.region->before_prepare = {};
    attached_.region->after_prepare = {};
    weights_.restore();
    for (const std::vector<Member>& members : kStates) {
      const Result<SwitchReport> result = attached_.program.switch_to(members);
      ASSERT_TRUE(result.ok()) << result.error().message;
      EXPECT_EQ(attached_.live(), weights_.expected(members));
    }
  }

  const std::vector<std::vector<Member>> kStates = {
      {{"a", 1}}, {{"b", 0.5F}}, {{"a", 1}, {"d", 2}}, {}};
  const WeightsFile weights_;
  AttachedProgram attached_;
};

TEST_F(TransactionTruncation, BeforeTheSwitch) {
  truncate_half();
  expect_detached({{"a", 1}}, "w1");
  expect_recovery();
}

TEST_F(TransactionTruncation, AfterTheCheckOfTheRegions) {
  attached_.region->after_check = [&](const uint8_t* data) {
    if (data == attached_.data(kTensorCount - 1)) truncate_half();
  };
  expect_detached({{"a", 1}}, "w1");
  expect_recovery();
}

TEST_F(TransactionTruncation, AfterTheBaseWasCompared) {
  attached_.region->before_prepare = [&](const uint8_t* data) {
    if (data == attached_.data(0)) truncate_half();
  };
  expect_detached({{"a", 1}}, "w1");
  expect_recovery();
}

TEST_F(TransactionTruncation, PagesAreCopiedBeforeTheFirstStoreAndOnlyOnce) {
  void* probe =
      mmap(nullptr, page_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const bool is_offered = madvise(probe, page_bytes(), 23 /* MADV_POPULATE_WRITE */) == 0;
  munmap(probe, page_bytes());
  if (!is_offered) GTEST_SKIP() << "this kernel copies pages when they are stored to";
  constexpr size_t kBytes = kTensorCount * kTensorPages;
  const auto copied_pages = [&] {
    return test::residency(attached_.data(0), kBytes * page_bytes()).copied_kib * 1024 /
           page_bytes();
  };
  uint64_t copied_before_stores = 0;
  attached_.region->after_prepare = [&](const uint8_t* data) {
    if (data == attached_.data(kTensorCount - 1)) copied_before_stores = copied_pages();
  };
  for (int round = 0; round < 2; ++round) {
    ASSERT_EQ(copied_pages(), 0U);
    const Result<SwitchReport> result = attached_.program.switch_to({{"a", 1}});
    ASSERT_TRUE(result.ok());
    EXPECT_GE(copied_before_stores, kBytes - 3) << "nearly every page has an entry";
    EXPECT_EQ(copied_pages(), copied_before_stores);
    ASSERT_TRUE(attached_.program.hard_revert().ok()) << "and then it begins again";
  }
  // Pages that are known to be private are not asked for, so that nobody finds the file cut here.
  ASSERT_TRUE(attached_.program.switch_to({{"a", 1}}).ok());
  attached_.region->before_prepare = [&](const uint8_t* data) {
    if (data == attached_.data(0)) truncate_half();
  };
  const Error error = attached_.program.switch_to({}).error();
  EXPECT_NE(error.message.find("went away while it was used"), std::string::npos) << error.message;
}

TEST_F(TransactionTruncation, WhileAMaskOfLargestWeightsIsDerived) {
  LiveTensor w1 = weights_.model().tensors[1];
  std::vector<uint32_t> order(w1.numel());
  for (uint32_t i = 0; i < order.size(); ++i) order[i] = i;
  const auto magnitude = [&](uint32_t i) {
    return std::fabs(widen(w1.dtype, &w1.pristine[i * 4]));
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return magnitude(a) > magnitude(b); });
  order.resize(100);
  std::sort(order.begin(), order.end());
  AdapterInput input = simple_adapter("largest", w1, order, std::vector<float>(100, 1)).input;
  input.tensors[0].codec = IndexCodec::top_magnitude;
  input.tensors[0].coded = EncodedIndex{{}, 1};
  const TestAdapter adapter = seal(input);
  attached_.region->after_check = [&](const uint8_t*) { truncate_half(); };
  const Error error = attached_.program.add_adapter(adapter.source, {}).error();
  EXPECT_EQ(error.status, Status::DETACHED) << error.message;
  EXPECT_EQ(error.tensor, "w1");
  expect_only_file_mapped();
  expect_recovery();
  ASSERT_TRUE(attached_.program.add_adapter(adapter.source, {}).ok());
  ASSERT_TRUE(attached_.program.switch_to({{"largest", 1}}).ok());
  EXPECT_EQ(attached_.live()[0], weights_.expected({})[0]);
  EXPECT_NE(attached_.live()[1], weights_.expected({})[1]);
}

TEST_F(TransactionTruncation, APageThatLostItsEndIsFoundLater) {
  // The kernel fills the last page of the file with zeros, and a private copy keeps them.
  attached_.region->before_prepare = [&](const uint8_t* data) {
    if (data == attached_.data(0)) {
      weights_.truncate_to(data_offset() + (kTensorPages - 1) * page_bytes() - 100);
    }
  };
  EXPECT_EQ(attached_.program.switch_to({{"a", 1}}).error().status, Status::DETACHED);
  attached_.region->before_prepare = {};
  weights_.restore();
  EXPECT_EQ(attached_.program.switch_to({{"a", 1}}).error().status, Status::BASE_MISMATCH);
}

TEST_F(TransactionTruncation, BetweenTwoStores) {
  for (const uint32_t thread_count : {1U, 3U}) {
    ASSERT_TRUE(attached_.program.set_thread_count(thread_count).ok());
    attached_.region->after_prepare = [&](const uint8_t* data) {
      if (data == attached_.data(kTensorCount - 1)) truncate_half();
    };
    expect_detached({{"a", 1}}, "w1");
    expect_recovery();
  }
}

TEST_F(TransactionTruncation, BetweenTwoStoresFromAnActiveState) {
  ASSERT_TRUE(attached_.program.switch_to({{"b", 0.5F}, {"d", 1}}).ok());
  const std::vector<Bytes> active = attached_.live();
  attached_.region->after_prepare = [&](const uint8_t* data) {
    if (data == attached_.data(kTensorCount - 1)) truncate_half();
  };
  for (const std::vector<Member>& members :
       {std::vector<Member>{}, {{"b", 1}}, {{"a", 1}, {"c", 1}}}) {
    weights_.restore();
    expect_detached(members, "w1");
    const Bytes w0(attached_.data(0), attached_.data(0) + active[0].size());
    EXPECT_EQ(w0, active[0]) << "the state that is still active was put back";
  }
}

TEST_F(TransactionTruncation, WhileTheBaseIsVerified) {
  const auto truncates = [&](const uint8_t* data) {
    if (data == attached_.data(kTensorCount - 1)) truncate_half();
  };
  attached_.region->after_check = truncates;
  const Result<VerifyReport> verified = attached_.program.verify_base();
  ASSERT_FALSE(verified.ok());
  EXPECT_EQ(verified.error().status, Status::DETACHED);
  weights_.restore();
  const Result<void> checked = attached_.program.check_adapter("a");
  ASSERT_FALSE(checked.ok());
  EXPECT_EQ(checked.error().status, Status::DETACHED);
  EXPECT_EQ(checked.error().tensor, "w1");
  weights_.restore();
  expect_only_file_mapped();
  expect_recovery();
}

TEST_F(TransactionTruncation, BeforeAHardRevertReadsTheMemory) {
  ASSERT_TRUE(attached_.program.switch_to({{"a", 1}}).ok());
  const ProgramState before = attached_.program.state();
  // The source has just been read from the file when the memory loses it.
  attached_.region->after_check = [&](const uint8_t* data) {
    if (data == attached_.data(kTensorCount - 1)) truncate_half();
  };
  const Result<SwitchReport> reverted = attached_.program.hard_revert();
  ASSERT_FALSE(reverted.ok());
  EXPECT_EQ(reverted.error().status, Status::DETACHED);
  EXPECT_TRUE(same_state(attached_.program.state(), before));
  expect_only_file_mapped();
}

TEST_F(TransactionTruncation, AMappingOfTheCallersOwnIsGuardedToo) {
  const int descriptor = open(weights_.path().c_str(), O_RDONLY);
  const size_t tensor_bytes = kTensorPages * page_bytes();
  const uint64_t in_page = data_offset() % page_bytes();
  void* memory = mmap(nullptr, tensor_bytes + page_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE,
                      descriptor, static_cast<off_t>(data_offset() - in_page));
  close(descriptor);
  ASSERT_NE(memory, MAP_FAILED);
  LiveTensor w0 = weights_.model().tensors[0];
  auto region = std::make_shared<HookRegion>(make_raw_region());
  TensorSpec spec{w0.name, w0.dtype, w0.dims, static_cast<uint8_t*>(memory) + in_page, region, {}};
  Program program;
  ASSERT_TRUE(program.add_tensor(spec).ok());
  ASSERT_TRUE(
      program
          .add_adapter(
              simple_adapter("last", w0, {0, static_cast<uint32_t>(w0.numel() - 1)}, {1, 2}).source,
              {})
          .ok());
  region->after_prepare = [&](const uint8_t*) { weights_.truncate_to(page_bytes()); };
  const Result<SwitchReport> result = program.switch_to({{"last", 1}});
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().status, Status::DETACHED);
  EXPECT_EQ(program.switch_to({{"last", 1}}).error().status, Status::DETACHED) << "from now on";
  munmap(memory, tensor_bytes + page_bytes());
}

TEST_F(TransactionTruncation, AGrownFileIsNoReasonToStop) {
  weights_.truncate_to(weights_.content().size() + 5 * page_bytes());
  for (const std::vector<Member>& members : kStates) {
    ASSERT_TRUE(attached_.program.switch_to(members).ok());
    EXPECT_EQ(attached_.live(), weights_.expected(members));
  }
}

TEST_F(TransactionTruncation, AReplacedFileStaysTheOneThatIsMapped) {
  const std::string other = weights_.path() + ".new";
  test::TemporaryFile::write(other, Bytes(100));
  attached_.region->after_check = [&](const uint8_t*) {
    rename(other.c_str(), weights_.path().c_str());
  };
  for (const std::vector<Member>& members : kStates) {
    ASSERT_TRUE(attached_.program.switch_to(members).ok());
    EXPECT_EQ(attached_.live(), weights_.expected(members));
  }
  ASSERT_TRUE(attached_.program.switch_to({{"a", 1}}).ok());
  ASSERT_TRUE(attached_.program.hard_revert().ok());
  EXPECT_EQ(attached_.live(), weights_.expected({}));
}

/// What the racing process does, until it is killed.
[[noreturn]] void truncate_for_ever(const WeightsFile& weights, uint64_t seed) {
  std::mt19937_64 random(seed);
  const size_t file_bytes = weights.content().size();
  while (true) {
    weights.truncate_to(random() % file_bytes);
    if (random() % 2 == 0) usleep(static_cast<useconds_t>(random() % 300));
    weights.restore();
    usleep(static_cast<useconds_t>(random() % 2000));
  }
}

TEST(TransactionRace, TruncationAtRandomMomentsIsNeverSigbus) {
  const WeightsFile weights(3, 64);
  const int answer = test::in_child([&] {
    AttachedProgram attached(weights);
    if (!attached.program.set_thread_count(2).ok()) return 2;
    const pid_t other = fork();
    if (other == 0) truncate_for_ever(weights, 5);
    const auto stop = time(nullptr) + count_from_environment("SHIRA_RACE_SECONDS", 3);
    std::mt19937_64 random(6);
    const std::vector<std::vector<Member>> states = {
        {{"a", 1}}, {{"b", 0.5F}}, {{"a", 1}, {"d", 1}}, {{"c", 1}}, {}};
    uint64_t done = 0;
    uint64_t detached = 0;
    uint64_t faulted = 0;
    int unexpected = 0;
    const auto note = [&](const Error& error) {
      ++(error.ok() ? done : detached);
      faulted += error.message.find("went away while") != std::string::npos ? 1 : 0;
      // Between growing and rewriting, the file is zeros there: another base.
      if (!error.ok() && error.status != Status::DETACHED && error.status != Status::BASE_MISMATCH)
        unexpected = static_cast<int>(error.status);
    };
    while (time(nullptr) < stop && unexpected == 0) {
      for (int i = 0; i < 50; ++i) {
        switch (random() % 16) {
          case 0:
            note(attached.program.verify_base().error());
            break;
          case 1:
            note(attached.program.hard_revert().error());
            break;
          case 2:
            note(attached.program.check_adapter("b").error());
            break;
          default:
            note(attached.program.switch_to(states[random() % states.size()]).error());
        }
      }
    }
    kill(other, SIGKILL);
    waitpid(other, nullptr, 0);
    printf("%llu calls succeeded, %llu failed, of which %llu in the middle\n",
           static_cast<unsigned long long>(done), static_cast<unsigned long long>(detached),
           static_cast<unsigned long long>(faulted));
    fflush(nullptr);
    if (unexpected != 0) return unexpected;
    return done > 0 && detached > 0 ? 0 : 1;
  });
  EXPECT_EQ(answer, 0);
  weights.restore();
  AttachedProgram fresh(weights);
  ASSERT_TRUE(fresh.program.switch_to({{"a", 1}}).ok());
  EXPECT_EQ(fresh.live(), weights.expected({{"a", 1}}));
}

}  // namespace
}  // namespace shira::testing
