// Random switches against an oracle that knows only the pristine base: laws I1, I4, I7, I8 and I10.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cfenv>
#include <cstdlib>
#include <map>
#include <set>
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include "runtime_support.h"

namespace shira::testing {
namespace {

uint64_t seed() {
  const char* text = std::getenv("SHIRA_TEST_SEED");
  return text == nullptr ? 20261121 : std::strtoull(text, nullptr, 10);
}

constexpr Dtype kDtypes[] = {Dtype::f32, Dtype::f16, Dtype::bf16, Dtype::i8, Dtype::i4};

Model every_dtype(std::mt19937_64& random) {
  Model model;
  int number = 0;
  for (const Dtype dtype : kDtypes) {
    for (const auto& dims : std::vector<std::vector<uint32_t>>{{23, 41}, {64, 64}, {3, 5, 7}}) {
      const size_t numel =
          dims.size() == 2 ? size_t{dims[0]} * dims[1] : size_t{dims[0]} * dims[1] * dims[2];
      model.tensors.push_back(make_tensor("layer." + std::to_string(number++), dtype, dims,
                                          random_bytes(random, dtype, numel)));
    }
    model.tensors.push_back(make_packed_tensor("layer." + std::to_string(number++), dtype, {23, 41},
                                               random_bytes(random, dtype, size_t{23} * 41), 3));
  }
  return model;
}

Adapters random_adapters(std::mt19937_64& random, const Model& model, int count, double density) {
  Adapters adapters;
  for (int i = 0; i < count; ++i) {
    const std::string name = "adapter" + std::to_string(i);
    adapters.emplace(
        name, random_adapter(random, name, model, i % 3 == 2 ? ValueKind::delta : ValueKind::target,
                             density));
  }
  // The same content once more under another name: equal digests must not unsettle the order of
  // summation. So must not the two adapters of a pack, nor one that is opened in part.
  adapters.emplace("twin", adapters.at("adapter0"));
  const std::vector<AdapterInput> inputs = {
      random_input(random, "pack0", model, ValueKind::delta, density),
      random_input(random, "pack1", model, ValueKind::target, density)};
  for (TestAdapter& adapter : seal_pack(inputs)) adapters.emplace(adapter.input.name, adapter);
  const AdapterInput tiers = random_input(random, "tiers", model, ValueKind::target, density, 3);
  for (uint32_t opened = 1; opened <= 3; ++opened)
    adapters.emplace("tiers without " + std::to_string(3 - opened), seal_pack({tiers}, opened)[0]);
  return adapters;
}

void add_all(const Adapters& adapters, Program* program) {
  for (const auto& [name, adapter] : adapters) {
    AddOptions options;
    options.name = name;
    const Result<std::string> added = program->add_adapter(adapter.source, options);
    ASSERT_TRUE(added.ok()) << added.error().message;
  }
}

std::vector<Member> random_members(std::mt19937_64& random, const Adapters& adapters) {
  static constexpr float kScales[] = {1.0F, 1.0F, 1.0F, 0.5F, -0.75F, 0.0F, 1.7F, -0.0F, 0.3333F};
  std::vector<std::string> names;
  for (const auto& [name, adapter] : adapters) names.push_back(name);
  std::shuffle(names.begin(), names.end(), random);
  names.resize(std::min<size_t>(names.size(), random() % 4));
  std::vector<Member> members;
  for (const std::string& name : names) members.push_back(Member{name, kScales[random() % 9]});
  return members;
}

bool same_members(const std::vector<Member>& a, const std::vector<Member>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Member& x, const Member& y) {
    return x.name == y.name && x.scale == y.scale;
  });
}

// What the report of a switch between two states must say.
void expect_report(const SwitchReport& report, Model* model, const Expected& old_state,
                   const Expected& new_state) {
  SwitchReport expected;
  uint64_t saved_elements = 0;
  uint64_t saved_bytes = 0;
  for (size_t t = 0; t < model->tensors.size(); ++t) {
    LiveTensor& tensor = model->tensors[t];
    const size_t width = dtype_bytes(tensor.dtype);
    std::set<uintptr_t> pages;
    for (size_t index = 0; index < tensor.numel(); ++index) {
      if ((old_state.touched[t][index] | new_state.touched[t][index]) == 0) continue;
      expected.elements_changed += std::memcmp(&old_state.bytes[t][index * width],
                                               &new_state.bytes[t][index * width], width) != 0;
      const ElementPlace place = tensor.place_of(index);
      for (const uint64_t offset : {place.element_offset_bytes, place.sum_offset_bytes})
        pages.insert(reinterpret_cast<uintptr_t>(tensor.data() + offset) / page_bytes());
    }
    // Each state's positions are stored once, those of equal masks perhaps once for both.
    const auto count = [](const std::vector<uint8_t>& touched) {
      return static_cast<uint64_t>(std::count(touched.begin(), touched.end(), 1));
    };
    const uint64_t stores = count(old_state.touched[t]) + count(new_state.touched[t]);
    const bool is_equal = old_state.touched[t] == new_state.touched[t];
    expected.elements_written += stores;
    expected.bytes_written += stores * width;
    saved_elements += is_equal ? stores / 2 : 0;
    saved_bytes += is_equal ? stores / 2 * width : 0;
    expected.tensors_matched += pages.empty() ? 0 : 1;
    expected.pages_touched += pages.size();
  }
  EXPECT_EQ(report.tensors_matched, expected.tensors_matched);
  EXPECT_LE(report.elements_written, expected.elements_written);
  EXPECT_GE(report.elements_written + saved_elements, expected.elements_written);
  EXPECT_EQ(report.elements_changed, expected.elements_changed);
  EXPECT_LE(report.bytes_written, expected.bytes_written);
  EXPECT_GE(report.bytes_written + saved_bytes, expected.bytes_written);
  EXPECT_EQ(report.pages_touched, expected.pages_touched);
}

#if defined(__SANITIZE_THREAD__)
constexpr int kWorlds = 1;  // the oracle knows no threads
#else
constexpr int kWorlds = 6;
#endif

TEST(ProgramOracle, ThousandsOfSwitchesEqualTheOracle) {
  SCOPED_TRACE("SHIRA_TEST_SEED=" + std::to_string(seed()));
  std::mt19937_64 random(seed());
  for (int world = 0; world < kWorlds; ++world) {
    Model model = every_dtype(random);
    const Adapters adapters = random_adapters(random, model, 7, world % 2 == 0 ? 0.03 : 0.4);
    Program program;
    model.register_with(&program);
    add_all(adapters, &program);

    Expected state = expected_state(model, adapters, {});
    std::vector<Member> active;
    uint64_t epoch = 0;
    std::map<std::vector<Bytes>, Hash128> digest_of_bytes = {{model.pristine(), hash128("", 0)}};
    std::set<Hash128> digests = {hash128("", 0)};
    for (int step = 0; step < 400; ++step) {
      const std::vector<Member> members = random_members(random, adapters);
      const Result<SwitchReport> result = program.switch_to(members);
      ASSERT_TRUE(result.ok()) << result.error().message;
      const std::vector<Member> next_active = normalise(adapters, members);
      Expected next = expected_state(model, adapters, members);
      ASSERT_EQ(model.live(), next.bytes) << "world " << world << " step " << step;  // I1, I4
      if (same_members(next_active, active)) {
        EXPECT_EQ(result.value().tensors_matched + result.value().elements_written, 0U);
      } else {
        expect_report(result.value(), &model, state, next);  // I8
      }
      ASSERT_TRUE(same_members(program.active(), next_active));
      epoch += next.bytes != state.bytes ? 1 : 0;  // I10
      ASSERT_EQ(result.value().epoch, epoch);
      ASSERT_EQ(program.epoch(), epoch);
      const auto [known, is_new] = digest_of_bytes.emplace(next.bytes, program.digest());
      ASSERT_EQ(known->second, program.digest());
      if (is_new) {
        ASSERT_TRUE(digests.insert(known->second).second) << "two states share a digest";
      }
      state = std::move(next);
      active = next_active;
      if (HasFailure()) return;
    }
    ASSERT_TRUE(program.verify_base().value().modified.empty());
    ASSERT_TRUE(model.is_packed_right());
    ASSERT_TRUE(program.switch_to({}).ok());
    ASSERT_EQ(model.live(), model.pristine());
    ASSERT_EQ(program.digest(), hash128("", 0));
    ASSERT_TRUE(model.guards_intact());
  }
}

/// The adapter's positions and their shape, on every tensor of the model.
template <typename IndexOf>
TestAdapter shaped_adapter(std::mt19937_64& random, const std::string& name, const Model& model,
                           IndexCodec codec, const IndexOf& index_of) {
  AdapterInput input;
  input.name = name;
  for (const LiveTensor& base : model.tensors) {
    TensorInput tensor = tensor_of(base, ValueKind::target);
    tensor.codec = codec;
    tensor.index = index_of(static_cast<uint32_t>(base.numel()));
    set_random_values(random, base, static_cast<ValueCodec>(base.dtype), &tensor);
    tensor.set_base(base.pristine);
    input.tensors.push_back(std::move(tensor));
  }
  return seal(input);
}

/// Masks that meet in every way: single entries and runs, overlapping and apart, of one giant run,
/// with borders where tiles and tasks have theirs, shared by two adapters.
Adapters adapters_of_many_tiles(std::mt19937_64& random, const Model& model) {
  Adapters adapters;
  const auto add = [&](const std::string& name, IndexCodec codec, const auto& index_of) {
    adapters.emplace(name, shaped_adapter(random, name, model, codec, index_of));
  };
  const auto range = [](uint32_t begin, uint32_t end) {
    std::vector<uint32_t> index;
    for (uint32_t i = begin; i < end; ++i) index.push_back(i);
    return index;
  };
  for (const char* name : {"entries", "others"}) {
    add(name, IndexCodec::gaps8,
        [&](uint32_t numel) { return random_index(random, IndexCodec::gaps8, 1, numel, 0.3); });
  }
  add("runs", IndexCodec::runs,
      [&](uint32_t numel) { return random_index(random, IndexCodec::runs, 1, numel, 0.05); });
  add("everything", IndexCodec::runs, [&](uint32_t numel) { return range(0, numel); });
  add("a tile", IndexCodec::runs, [&](uint32_t) { return range(0, 4096); });
  add("its neighbour", IndexCodec::runs, [&](uint32_t) { return range(4096, 8192); });
  add("across tasks", IndexCodec::runs, [&](uint32_t) { return range(32767, 32769); });
  for (const char* name : {"odd", "odd again"}) {
    add(name, IndexCodec::gaps8, [&](uint32_t numel) {
      std::vector<uint32_t> index;
      for (uint32_t i = 1; i < numel; i += 2) index.push_back(i);
      return index;
    });
  }
  return adapters;
}

#if defined(__SANITIZE_THREAD__)
constexpr int kManySwitches = 500;  // each takes many times as long
constexpr int kPackedSwitches = 40;
#elif defined(__SANITIZE_ADDRESS__)
constexpr int kManySwitches = 500;
constexpr int kPackedSwitches = 100;
#else
constexpr int kManySwitches = 10000;
constexpr int kPackedSwitches = 400;
#endif

/// The numbers of the model's tensors, whose packing noted it, that two threads wrote at once.
bool have_threads_shared_a_group(Model* model) {
  bool have_shared = false;
  for (const LiveTensor& tensor : model->tensors)
    have_shared |= tensor.layout && tensor.layout->was_shared_by_threads();
  return have_shared;
}

void switch_over_many_tiles(Model model, std::mt19937_64& random, int switch_count) {
  const Adapters adapters = adapters_of_many_tiles(random, model);
  std::vector<std::vector<Member>> states = {{}};
  for (const auto& [name, adapter] : adapters) states.push_back({{name, 1}});
  for (const float scale : {0.5F, -2.0F}) states.push_back({{"odd", scale}});
  states.push_back({{"entries", 1}, {"runs", 1}});
  states.push_back({{"odd", 1}, {"odd again", 0.3F}});

  // What the model says of each state, and how many elements two of them differ in.
  std::vector<Expected> expected;
  for (const auto& members : states) expected.push_back(expected_state(model, adapters, members));
  std::map<std::pair<size_t, size_t>, uint64_t> known_changes;
  const auto changes = [&](size_t from, size_t to) {
    const auto [known, is_new] = known_changes.emplace(std::make_pair(from, to), 0);
    for (size_t t = 0; is_new && t < model.tensors.size(); ++t) {
      const size_t width = dtype_bytes(model.tensors[t].dtype);
      for (size_t i = 0; i < expected[from].bytes[t].size(); i += width)
        known->second +=
            std::memcmp(&expected[from].bytes[t][i], &expected[to].bytes[t][i], width) != 0;
    }
    return known->second;
  };

  Program program;
  model.register_with(&program);
  add_all(adapters, &program);
  size_t state = 0;
  uint64_t epoch = 0;
  for (int step = 0; step < switch_count; ++step) {
    const size_t next = random() % states.size();
    if (step % 17 == 0) {
      ASSERT_TRUE(program.set_thread_count(1 + random() % 4).ok());
    }
    if (step % 31 == 0) {  // forgets what was saved and remembered
      const std::string& name = std::next(adapters.begin(), random() % adapters.size())->first;
      const auto is_it = [&](const Member& member) { return member.name == name; };
      if (std::none_of(states[state].begin(), states[state].end(), is_it)) {
        AddOptions options;
        options.name = name;
        ASSERT_TRUE(program.remove_adapter(name).ok());
        ASSERT_TRUE(program.add_adapter(adapters.at(name).source, options).ok());
      }
    }
    const Result<SwitchReport> result = program.switch_to(states[next]);
    ASSERT_TRUE(result.ok()) << result.error().message;
    ASSERT_TRUE(model.live() == expected[next].bytes) << "from " << state << " to " << next;
    ASSERT_TRUE(model.is_packed_right()) << "from " << state << " to " << next;
    ASSERT_FALSE(have_threads_shared_a_group(&model)) << "from " << state << " to " << next;
    ASSERT_EQ(result.value().elements_changed, changes(state, next))
        << "from " << state << " to " << next << ", step " << step;
    epoch += changes(state, next) > 0 ? 1 : 0;
    ASSERT_EQ(result.value().epoch, epoch);
    state = next;
  }
  ASSERT_TRUE(model.guards_intact());
}

TEST(ProgramOracle, TenThousandSwitchesOverManyTiles) {
  SCOPED_TRACE("SHIRA_TEST_SEED=" + std::to_string(seed()));
  std::mt19937_64 random(seed());
  Model model;
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    model.tensors.push_back(
        make_tensor(dtype_name(dtype), dtype, {200, 350}, random_bytes(random, dtype, 70000)));
  }
  switch_over_many_tiles(std::move(model), random, kManySwitches);
}

TEST(ProgramOracle, SwitchesOverManyTilesOfPackedTensors) {
  SCOPED_TRACE("SHIRA_TEST_SEED=" + std::to_string(seed()));
  std::mt19937_64 random(seed());
  Model model;
  for (const Dtype dtype : {Dtype::f32, Dtype::i8, Dtype::i4}) {
    model.tensors.push_back(make_packed_tensor(dtype_name(dtype), dtype, {200, 351},
                                               random_bytes(random, dtype, 70200),
                                               dtype == Dtype::i4 ? 7 : 1));
  }
  switch_over_many_tiles(std::move(model), random, kPackedSwitches);
}

TEST(ProgramOracle, TheOrderOfMembersAndOfTheirAdditionDoesNotMatter) {
  std::mt19937_64 random(7);
  Model model = every_dtype(random);
  const Adapters adapters = random_adapters(random, model, 5, 0.5);
  const std::vector<Bytes> pristine = model.pristine();
  std::vector<Bytes> first;
  std::vector<std::string> names = {"adapter0", "adapter1", "adapter2", "adapter3", "twin"};
  for (int round = 0; round < 10; ++round) {
    std::shuffle(names.begin(), names.end(), random);
    Program program;
    model.register_with(&program);
    std::vector<Member> members;
    for (const std::string& name : names) {
      AddOptions options;
      options.name = name;
      ASSERT_TRUE(program.add_adapter(adapters.at(name).source, options).ok());
      members.push_back(Member{name, name == "twin" ? 0.7F : 0.3F});
    }
    ASSERT_TRUE(program.switch_to(members).ok());
    if (round == 0) first = model.live();
    EXPECT_EQ(model.live(), first);
    ASSERT_TRUE(program.switch_to({}).ok());
    EXPECT_EQ(model.live(), pristine);
  }
}

// 3 threads sum 3 floats in an order-dependent way only if the order is not fixed: 1e8 + 1 - 1e8
// shows it.
TEST(ProgramOracle, SumsAreTakenInDigestOrder) {
  Model model;
  model.tensors.push_back(
      make_tensor("w", Dtype::f32, {4}, encode_values(Dtype::f32, {0, 0, -0.0F, 1})));
  Adapters adapters;
  const float values[] = {1e8F, 1.0F, -1e8F};
  for (int i = 0; i < 3; ++i) {
    const std::string name(1, static_cast<char>('a' + i));
    adapters.emplace(name, simple_adapter(name, model.tensors[0], {0, 2}, {values[i], -0.0F}));
  }
  Program program;
  model.register_with(&program);
  add_all(adapters, &program);
  const std::vector<Member> members = {{"a", 1}, {"b", 1}, {"c", 1}};
  ASSERT_TRUE(program.switch_to(members).ok());
  EXPECT_EQ(model.live(), expected_state(model, adapters, members).bytes);
}

TEST(ProgramOracle, NegativeZeroAndScaleOneTargetsAreExact) {
  Model model;
  model.tensors.push_back(
      make_tensor("w", Dtype::f32, {3}, encode_values(Dtype::f32, {1e-8F, 0.0F, -0.0F})));
  const Adapters adapters = {{"a", simple_adapter("a", model.tensors[0], {0, 1}, {1e8F, -0.0F})},
                             {"b", simple_adapter("b", model.tensors[0], {2}, {3.0F})}};
  Program program;
  model.register_with(&program);
  add_all(adapters, &program);
  // b + 1 * (t - b) would lose the base's 1e-8 and the sign of -0.0; stacked with a disjoint
  // adapter nothing is lost either.
  for (const std::vector<Member>& members :
       {std::vector<Member>{{"a", 1}}, std::vector<Member>{{"a", 1}, {"b", 0.5F}}}) {
    ASSERT_TRUE(program.switch_to(members).ok());
    const Bytes live = model.live()[0];
    EXPECT_EQ(Bytes(live.begin(), live.begin() + 8), encode_values(Dtype::f32, {1e8F, -0.0F}));
  }
}

TEST(ProgramOracle, EveryThreadCountGivesTheSameBytesAndCounts) {
  std::mt19937_64 random(11);
  Model model;
  for (int i = 0; i < 6; ++i) {
    const Dtype dtype = static_cast<Dtype>(1 + i % 3);
    const uint32_t rows = i == 0 ? 1024 : 200;
    model.tensors.push_back(make_tensor("w" + std::to_string(i), dtype, {rows, 300},
                                        random_bytes(random, dtype, size_t{rows} * 300)));
  }
  const Adapters adapters = random_adapters(random, model, 4, 0.3);
  const std::vector<std::vector<Member>> states = {
      {{"adapter0", 1}},
      {{"adapter1", 1}, {"adapter2", 0.5F}},
      {{"adapter3", 1}, {"adapter0", 1}, {"twin", 0.1F}},
      {{"adapter1", 1}},
      {}};
  std::vector<std::vector<Bytes>> live_of_one;
  std::vector<SwitchReport> report_of_one;
  for (const uint32_t thread_count : {1, 2, 3, 4}) {
    Program program;
    model.register_with(&program);
    add_all(adapters, &program);
    ASSERT_TRUE(program.set_thread_count(thread_count).ok());
    EXPECT_EQ(program.thread_count(), thread_count);
    for (size_t i = 0; i < states.size(); ++i) {
      const Result<SwitchReport> result = program.switch_to(states[i]);
      ASSERT_TRUE(result.ok()) << result.error().message;
      const SwitchReport& report = result.value();
      if (thread_count == 1) {
        live_of_one.push_back(model.live());
        report_of_one.push_back(report);
      }
      EXPECT_EQ(model.live(), live_of_one[i]);
      EXPECT_EQ(report.elements_written, report_of_one[i].elements_written);
      EXPECT_EQ(report.elements_changed, report_of_one[i].elements_changed);
      EXPECT_EQ(report.pages_touched, report_of_one[i].pages_touched);
    }
    EXPECT_TRUE(program.verify_base().value().modified.empty());
  }
  EXPECT_EQ(model.live(), model.pristine());
}

TEST(ProgramOracle, TheCallersFloatModeDoesNotMatter) {
  Model model;
  const Bytes base = encode_values(Dtype::f32, {0x1p-140F, 1.0F, 3.0F, -1.0F});
  model.tensors.push_back(make_tensor("w", Dtype::f32, {4}, base));
  const Adapters adapters = {
      {"a", simple_adapter("a", model.tensors[0], {0, 1, 2}, {0x1p-139F, 1.1F, 0.1F})}};
  const std::vector<Member> members = {{"a", 0.3F}};
  const Expected expected = expected_state(model, adapters, members);
  Program program;
  model.register_with(&program);
  add_all(adapters, &program);
  std::fesetround(FE_UPWARD);
#if defined(__SSE2__)
  const unsigned mode = _mm_getcsr();
  _mm_setcsr(mode | 0x8040U);  // flush results and operands to zero
#endif
  const bool ok = program.switch_to(members).ok();
  const std::vector<Bytes> bytes = model.live();
  // A subnormal scale is not 0, and two of them are not the same.
  const std::vector<Member> tiny = {{"a", 0x1p-130F}};
  const std::vector<Member> tinier = {{"a", 0x1p-140F}};
  const bool tiny_ok = program.switch_to(tiny).ok();
  const std::vector<Member> tiny_active = program.active();
  const bool tinier_ok = program.switch_to(tinier).ok();
  const std::vector<Member> tinier_active = program.active();
#if defined(__SSE2__)
  EXPECT_EQ(_mm_getcsr() & 0x8040U, 0x8040U) << "the caller's mode was not given back";
  _mm_setcsr(mode);
#endif
  EXPECT_EQ(std::fegetround(), FE_UPWARD);
  std::fesetround(FE_TONEAREST);
  ASSERT_TRUE(ok);
  EXPECT_EQ(bytes, expected.bytes);
  ASSERT_TRUE(tiny_ok && tinier_ok);
  ASSERT_EQ(tiny_active.size(), 1U);
  ASSERT_EQ(tinier_active.size(), 1U);
  EXPECT_EQ(tiny_active[0].scale, tiny[0].scale);
  EXPECT_EQ(tinier_active[0].scale, tinier[0].scale);
  EXPECT_EQ(model.live(), expected_state(model, adapters, tinier).bytes);
}

}  // namespace
}  // namespace shira::testing
