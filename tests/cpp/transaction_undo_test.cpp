// Law I2 when a base turns out wrong, or goes away, in the middle of the stores: all is undone.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <ostream>
#include <tuple>

#include "transaction_support.h"

namespace shira {

// Test names show it.
static void PrintTo(const Member& member, std::ostream* out) {
  *out << member.name << " x " << member.scale;
}

namespace testing {
namespace {

/// From which state, with how many threads.
using Start = std::tuple<std::vector<Member>, uint32_t>;

/// Tensors whose masks, of single entries and of runs, take many tiles and overlap a lot; the last
/// one is packed.
class TransactionUndo : public ::testing::TestWithParam<Start> {
 protected:
  TransactionUndo() {
    std::mt19937_64 random(17);
    const Dtype dtypes[] = {Dtype::f32, Dtype::f16, Dtype::f32};
    for (int i = 0; i < 3; ++i) {
      model_.tensors.push_back(make_tensor("w" + std::to_string(i), dtypes[i], {400, 500},
                                           random_bytes(random, dtypes[i], 200000)));
    }
    model_.tensors.push_back(make_packed_tensor("w3", Dtype::i4, {400, 501},
                                                random_bytes(random, Dtype::i4, 200400), 3));
    add("entries", random_input(random, IndexCodec::gaps8, 0.3));
    add("more", random_input(random, IndexCodec::gaps8, 0.4));
    add("runs", random_input(random, IndexCodec::runs, 0.05));
    add("twin", with_other_values(random, adapters_.at("entries").input));
    model_.register_with(&program_);
    for (const auto& [name, adapter] : adapters_) {
      if (!program_.add_adapter(adapter.source, {}).ok()) std::abort();
    }
    if (!program_.set_thread_count(std::get<1>(GetParam())).ok()) std::abort();
    if (!program_.switch_to(std::get<0>(GetParam())).ok()) std::abort();
    remember();
  }

  AdapterInput random_input(std::mt19937_64& random, IndexCodec codec, double density) const {
    AdapterInput input;
    for (const LiveTensor& base : model_.tensors) {
      TensorInput tensor = tensor_of(base, ValueKind::target);
      tensor.codec = codec;
      tensor.index = random_index(random, codec, 1, base.numel(), density);
      set_random_values(random, base, static_cast<ValueCodec>(base.dtype), &tensor);
      tensor.set_base(base.pristine);
      input.tensors.push_back(std::move(tensor));
    }
    return input;
  }

  AdapterInput with_other_values(std::mt19937_64& random, AdapterInput input) const {
    for (size_t i = 0; i < input.tensors.size(); ++i) {
      const LiveTensor& base = model_.tensors[i];
      set_random_values(random, base, static_cast<ValueCodec>(base.dtype), &input.tensors[i]);
    }
    return input;
  }

  void add(const std::string& name, AdapterInput input) {
    input.name = name;
    adapters_.emplace(name, seal(input));
  }

  void remember() {
    before_ = program_.state();
    live_ = model_.live_bytes();
  }

  void expect_refused(const std::vector<Member>& members, const std::string& tensor,
                      const std::string& message) {
    const Error error = program_.switch_to(members).error();
    EXPECT_EQ(error.status, Status::BASE_MISMATCH) << error.message;
    EXPECT_EQ(error.tensor, tensor);
    EXPECT_NE(error.message.find(message), std::string::npos) << error.message;
    EXPECT_TRUE(model_.live_bytes() == live_);
    EXPECT_TRUE(same_state(program_.state(), before_));
    EXPECT_TRUE(model_.guards_intact());
  }

  void expect_works(const std::vector<Member>& members) {
    const Result<SwitchReport> result = program_.switch_to(members);
    ASSERT_TRUE(result.ok()) << result.error().message;
    EXPECT_TRUE(model_.live() == expected_state(model_, adapters_, members).bytes);
    EXPECT_TRUE(model_.is_packed_right());
  }

  /// A position of `name` in tensor `t` that the active state does not touch, near `share` of them.
  uint32_t untouched_position(const std::string& name, size_t t, double share) const {
    const std::vector<uint8_t> touched =
        expected_state(model_, adapters_, program_.active()).touched[t];
    const std::vector<uint32_t>& index = adapters_.at(name).input.tensors[t].index;
    auto i = static_cast<size_t>(share * static_cast<double>(index.size() - 1));
    const int step = share > 0.5 ? -1 : 1;
    while (touched[index[i]] != 0) i += static_cast<size_t>(step);
    return index[i];
  }

  Model model_;
  Adapters adapters_;
  Program program_;
  ProgramState before_;
  std::vector<Bytes> live_;
};

TEST_P(TransactionUndo, AFingerprintThatIsWrongInOneTensor) {
  for (const char* name : {"more", "runs"}) {
    for (size_t t = 0; t < model_.tensors.size(); ++t) {
      AdapterInput input = adapters_.at(name).input;
      input.name = std::string(name) + std::to_string(t);
      input.tensors[t].fingerprint[0] ^= 1;
      ASSERT_TRUE(program_.remove_adapter(name).ok());  // or its positions were checked before
      ASSERT_TRUE(program_.add_adapter(seal(input).source, {}).ok());
      const std::string tensor = "w" + std::to_string(t);
      expect_refused({{input.name, 1}}, tensor, "expected fingerprint");
      expect_refused({{input.name, 0.5F}}, tensor, "expected fingerprint");
      ASSERT_TRUE(program_.remove_adapter(input.name).ok());
      ASSERT_TRUE(program_.add_adapter(adapters_.at(name).source, {}).ok());
    }
    expect_works({{name, 1}});
    expect_works(std::get<0>(GetParam()));
    remember();
  }
  expect_works({});
}

// The twin has the positions of an adapter whose originals are saved.
TEST_P(TransactionUndo, AFingerprintThatIsWrongForSharedPositions) {
  expect_works({{"entries", 1}});
  remember();
  AdapterInput input = adapters_.at("twin").input;
  input.name = "wrong";
  input.tensors[2].fingerprint[0] ^= 1;
  ASSERT_TRUE(program_.add_adapter(seal(input).source, {}).ok());
  expect_refused({{"wrong", 1}}, "w2", "expected fingerprint");
  expect_works({{"twin", 1}});
  remember();
  expect_refused({{"wrong", 1}}, "w2", "expected fingerprint");
  expect_works({});
}

TEST_P(TransactionUndo, AForeignStoreAnywhere) {
  for (const char* name : {"more", "runs", "twin"}) {
    expect_works({{name, 1}});  // its originals are saved from now on
    expect_works(std::get<0>(GetParam()));
    if (*name == 't' && !program_.active().empty()) continue;  // it touches them, too
    for (size_t t = 0; t < model_.tensors.size(); ++t) {
      for (const double share : {0.0, 0.4, 1.0}) {
        const uint32_t position = untouched_position(name, t, share);
        model_.tensors[t].flip(position);
        remember();
        const std::string message = "flat index " + std::to_string(position) + ",";
        expect_refused({{name, 1}}, "w" + std::to_string(t), message);
        expect_refused({{name, -0.5F}}, "w" + std::to_string(t), message);
        model_.tensors[t].flip(position);
      }
    }
    expect_works({{name, 1}});
    expect_works(std::get<0>(GetParam()));
  }
  expect_works({});
}

#if defined(__SANITIZE_THREAD__)
constexpr uint32_t kThreadCounts[] = {4};  // there are no races without threads
#else
constexpr uint32_t kThreadCounts[] = {1, 4};
#endif

INSTANTIATE_TEST_SUITE_P(
    FromEveryState, TransactionUndo,
    ::testing::Combine(::testing::Values(std::vector<Member>{}, std::vector<Member>{{"entries", 1}},
                                         std::vector<Member>{{"entries", 0.5F}, {"twin", 1}}),
                       ::testing::ValuesIn(kThreadCounts)));

/// A file whose tensors take several tiles each.
class TransactionUndoTruncation : public ::testing::TestWithParam<uint32_t> {
 protected:
  static constexpr size_t kPages = 512;
};

TEST_P(TransactionUndoTruncation, TilesBeforeTheCutAreUndone) {
  const WeightsFile weights(3, kPages);
  AttachedProgram attached(weights);
  ASSERT_TRUE(attached.program.set_thread_count(GetParam()).ok());
  // Copies in huge pages are no pages of the file, and stay.
  ASSERT_TRUE(attached.program.set_first_touch(FirstTouch::populate).ok());
  const size_t tensor_bytes = kPages * page_bytes();
  const uint64_t begin = weights.content().size() - 3 * tensor_bytes;
  const uint64_t cut = (begin + 2 * tensor_bytes - 40 * page_bytes()) & ~(page_bytes() - 1);
  for (const std::vector<Member>& start : {std::vector<Member>{}, {{"b", 1}, {"d", 1}}}) {
    attached.region->after_prepare = {};
    ASSERT_TRUE(attached.program.switch_to(start).ok());
    const std::vector<Bytes> live = attached.live();
    const ProgramState before = attached.program.state();
    attached.region->after_prepare = [&](const uint8_t* data) {
      if (data == attached.data(2)) weights.truncate_to(cut);
    };
    for (const std::vector<Member>& members :
         {std::vector<Member>{{"a", 1}}, {{"c", 1}}, {{"a", 0.5F}}, {{"a", 1}, {"c", 1}}}) {
      const Error error = attached.program.switch_to(members).error();
      EXPECT_EQ(error.status, Status::DETACHED) << error.message;
      EXPECT_EQ(error.tensor, "w1");
      EXPECT_TRUE(same_state(attached.program.state(), before));
      const Bytes w0(attached.data(0), attached.data(0) + tensor_bytes);
      const size_t left_bytes = cut - begin - tensor_bytes;
      const Bytes w1(attached.data(1), attached.data(1) + left_bytes);
      EXPECT_TRUE(w0 == live[0]);
      EXPECT_TRUE(w1 == Bytes(live[1].begin(), live[1].begin() + static_cast<long>(left_bytes)));
      weights.restore();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Threads, TransactionUndoTruncation, ::testing::Values(1U, 4U));

}  // namespace
}  // namespace testing
}  // namespace shira
