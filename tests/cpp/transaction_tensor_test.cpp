// Law I2 when one tensor of many fails, each in its turn, at every step: nothing changes at all.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <limits>

#include "transaction_support.h"

namespace shira::testing {
namespace {

constexpr int kTensorCount = 5;

/// From which state, with how many threads.
struct Start {
  std::vector<Member> members;
  uint32_t thread_count;
};

class TransactionTensor : public ::testing::TestWithParam<Start> {
 protected:
  TransactionTensor() : weights_(kTensorCount, 4), attached_(weights_) {
    if (!attached_.program.set_thread_count(GetParam().thread_count).ok() ||
        !attached_.program.switch_to(GetParam().members).ok()) {
      std::abort();
    }
    before_ = attached_.program.state();
    live_ = attached_.live();
  }

  /// `error` must name tensor `k`, and nothing may have changed.
  void expect_refused(const Error& error, Status status, int k) {
    EXPECT_EQ(error.status, status) << error.message;
    EXPECT_EQ(error.tensor, "w" + std::to_string(k)) << error.message;
    expect_unchanged();
  }

  void expect_unchanged() {
    EXPECT_EQ(attached_.live(), live_);
    EXPECT_TRUE(same_state(attached_.program.state(), before_));
    EXPECT_EQ(weights_.read(), weights_.content());
  }

  /// The adapter c under another name, with one of its tensors changed.
  template <typename Change>
  std::string add_changed(int k, const Change& change) {
    AdapterInput input = weights_.adapters().at("c").input;
    input.name = "changed-" + std::to_string(k);
    change(&input.tensors.at(static_cast<size_t>(k)));
    const TestAdapter adapter = seal(input);
    EXPECT_TRUE(attached_.program.add_adapter(adapter.source, {}).ok());
    return input.name;
  }

  Error switch_error(const std::vector<Member>& members) {
    return attached_.program.switch_to(members).error();
  }

  const WeightsFile weights_;
  AttachedProgram attached_;
  ProgramState before_;
  std::vector<Bytes> live_;
};

TEST_P(TransactionTensor, ARegionThatRefuses) {
  for (const char* step : {"check", "prepare_stores"}) {
    for (int k = 0; k < kTensorCount; ++k) {
      attached_.region->refused_step = step;
      attached_.region->refused_data = attached_.data(static_cast<size_t>(k));
      expect_refused(switch_error({{"c", 1}}), Status::DETACHED, k);
      expect_refused(switch_error({{"c", 0.5F}, {"d", 1}}), Status::DETACHED, k);
    }
  }
  attached_.region->refused_data = nullptr;
  EXPECT_TRUE(switch_error({{"c", 1}}).ok());
  EXPECT_EQ(attached_.live(), weights_.expected({{"c", 1}}));
}

TEST_P(TransactionTensor, AHardRevertThatIsRefused) {
  for (const char* step : {"check", "read_source"}) {
    for (int k = 0; k < kTensorCount; ++k) {
      attached_.region->refused_step = step;
      attached_.region->refused_data = attached_.data(static_cast<size_t>(k));
      expect_refused(attached_.program.hard_revert().error(), Status::DETACHED, k);
      expect_refused(attached_.program.verify_base().error(), Status::DETACHED, k);
    }
  }
  attached_.region->refused_data = nullptr;
  EXPECT_TRUE(attached_.program.hard_revert().ok());
  EXPECT_EQ(attached_.live(), weights_.expected({}));
}

TEST_P(TransactionTensor, AFingerprintOfAnotherBase) {
  for (int k = 0; k < kTensorCount; ++k) {
    const std::string name = add_changed(k, [](TensorInput* tensor) {
      tensor->set_base(Bytes(size_t{4} * tensor->dims[0] * tensor->dims[1], 0x11));
    });
    expect_refused(switch_error({{name, 1}}), Status::BASE_MISMATCH, k);
    expect_refused(switch_error({{"a", 1}, {name, 0.5F}}), Status::BASE_MISMATCH, k);
    expect_refused(attached_.program.check_adapter(name).error(), Status::BASE_MISMATCH, k);
  }
}

TEST_P(TransactionTensor, AResultThatIsNotFinite) {
  for (int k = 0; k < kTensorCount; ++k) {
    const std::string name = add_changed(k, [](TensorInput* tensor) {
      std::vector<float> values(tensor->index.size(), 1.0F);
      values.back() = std::numeric_limits<float>::max();
      tensor->set_values(values);
    });
    expect_refused(switch_error({{name, 1000}}), Status::NON_FINITE_RESULT, k);
    expect_refused(switch_error({{name, 1000}, {"a", 1}}), Status::NON_FINITE_RESULT, k);
    expect_refused(switch_error({{"a", 1}, {"b", 1}, {name, -1000}}), Status::NON_FINITE_RESULT, k);
  }
}

TEST_P(TransactionTensor, AForeignStoreAtATouchedPosition) {
  ASSERT_TRUE(switch_error({{"c", 1}}).ok());  // its originals are saved from now on
  ASSERT_TRUE(switch_error({}).ok());
  before_ = attached_.program.state();
  for (int k = 0; k < kTensorCount; ++k) {
    const uint32_t index =
        weights_.adapters().at("c").input.tensors[static_cast<size_t>(k)].index[0];
    uint8_t* weight = attached_.data(static_cast<size_t>(k)) + size_t{index} * sizeof(float);
    *weight ^= 1;
    live_ = attached_.live();
    expect_refused(switch_error({{"c", 1}}), Status::BASE_MISMATCH, k);
    *weight ^= 1;
  }
  EXPECT_TRUE(switch_error({{"c", 1}}).ok());
  EXPECT_EQ(attached_.live(), weights_.expected({{"c", 1}}));
}

TEST_P(TransactionTensor, AFailedSwitchRemembersNothingOfTheBase) {
  AdapterInput input = weights_.adapters().at("d").input;  // deltas need no base
  input.name = "unbound";
  input.bound = false;
  const TestAdapter adapter = seal(input);
  AddOptions options;
  options.allow_unverified_base = true;
  ASSERT_TRUE(attached_.program.add_adapter(adapter.source, options).ok());
  ASSERT_TRUE(switch_error({}).ok());
  before_ = attached_.program.state();
  live_ = attached_.live();
  attached_.region->refused_step = "prepare_stores";
  attached_.region->refused_data = attached_.data(kTensorCount - 1);
  expect_refused(switch_error({{"unbound", 1}}), Status::DETACHED, kTensorCount - 1);
  attached_.region->refused_data = nullptr;
  // Another base by now, which an adapter without fingerprints takes as it is.
  attached_.data(0)[size_t{input.tensors[0].index[0]} * sizeof(float)] ^= 1;
  const std::vector<Bytes> base = attached_.live();
  const Error error = switch_error({{"unbound", 1}});
  ASSERT_TRUE(error.ok()) << error.message;
  ASSERT_TRUE(switch_error({}).ok());
  EXPECT_EQ(attached_.live(), base);
}

INSTANTIATE_TEST_SUITE_P(FromEveryState, TransactionTensor,
                         ::testing::Values(Start{{}, 1}, Start{{{"a", 1}, {"b", 0.5F}}, 1},
                                           Start{{{"a", 1}}, 3}));

}  // namespace
}  // namespace shira::testing
