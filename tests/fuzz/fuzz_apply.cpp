// Fuzz target: an adapter that opens, on weights of the shapes it asks for. Scales, stacks and
// switches leave alone what the adapter does not name, and reverting restores every byte (law I1).
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "arena.h"
#include "check.h"
#include "format/adapter_file.h"
#include "format/layout.h"
#include "runtime/program.h"
#include "shb_builder.h"
#include "shb_parts.h"

namespace shira::fuzz {
namespace {

class ArenaRegion final : public Region {
 public:
  Result<void> check(const ProcessMaps& /*maps*/, const uint8_t* /*data*/,
                     uint64_t /*size_bytes*/) const override {
    return {};
  }
};

/// Where an adapter's tensor may write, given the base.
Result<IndexList> positions_of(const AdapterTensor& tensor, const uint8_t* base) {
  if (!tensor.rule) {
    IndexList copy;
    SHIRA_ASSIGN(copy.entries, Array<uint32_t>::make(tensor.index->entries.size()));
    SHIRA_ASSIGN(copy.runs, Array<Run>::make(tensor.index->runs.size()));
    std::copy_n(tensor.index->entries.data(), copy.entries.size(), copy.entries.data());
    std::copy_n(tensor.index->runs.data(), copy.runs.size(), copy.runs.data());
    return copy;
  }
  if (tensor.rule->codec != IndexCodec::top_magnitude) return expand_mask(*tensor.rule);
  return select_top_magnitude(*tensor.rule, tensor.dtype, base);
}

/// The weights of one input. Tensors stay where they are.
struct Weights {
  Arena& arena;
  std::vector<TensorSpec> specs;
  std::vector<Bytes> is_touched;  // by tensor and element, 0 or 1

  /// False when there are too large tensors.
  bool lay_out(const Adapter& adapter) {
    arena.clear();
    const auto region = std::make_shared<ArenaRegion>();
    for (const AdapterTensor& tensor : adapter.tensors) {
      if (tensor.numel > Arena::kSizeBytes) return false;
      uint8_t* data = arena.add(tensor.numel * dtype_bytes(tensor.dtype));
      if (data == nullptr) return false;
      specs.push_back({tensor.name, tensor.dtype, tensor.dims, data, region, {}, {}});
      const Result<IndexList> list = positions_of(tensor, data);
      FUZZ_CHECK(list.ok());
      Bytes touched(static_cast<size_t>(tensor.numel));
      for (const uint32_t position : testing::positions_of(list.value())) touched[position] = 1;
      is_touched.push_back(std::move(touched));
    }
    return true;
  }

  void check_untouched_elements() const {
    for (size_t t = 0; t < specs.size(); ++t) {
      const size_t width = dtype_bytes(specs[t].dtype);
      const uint8_t* pristine = arena.pristine_of(specs[t].data);
      for (size_t i = 0; i < is_touched[t].size(); ++i) {
        FUZZ_CHECK(is_touched[t][i] != 0 ||
                   std::memcmp(specs[t].data + i * width, pristine + i * width, width) == 0);
      }
    }
  }

  Hash128 fingerprint(size_t t) const {
    const size_t width = dtype_bytes(specs[t].dtype);
    Hasher128 hasher;
    for (size_t i = 0; i < is_touched[t].size(); ++i) {
      if (is_touched[t][i] != 0) hasher.update(specs[t].data + i * width, width);
    }
    return hasher.digest();
  }
};

/// The file with the fingerprints that fit the weights of the arena: a mutated index would else
/// never get past them.
Bytes forge_fingerprints(const uint8_t* data, size_t size_bytes, const Weights& weights) {
  std::optional<ShbParts> parts = take_apart(data, size_bytes);
  FUZZ_CHECK(parts.has_value());
  for (Row& row : *parts->rows(layout::kTensors)) {
    if (row.fields[layout::tensor::kFlags] == 0) continue;  // of an unbound adapter beside it
    const std::string name = parts->name_of(row);
    for (size_t t = 0; t < weights.specs.size(); ++t) {
      if (weights.specs[t].name != name) continue;
      const Hash128 digest = weights.fingerprint(t);
      std::copy(digest.begin(), digest.end(), row.fields.begin() + layout::tensor::kFingerprint);
    }
  }
  return put_together(std::move(*parts));
}

/// An adapter for the same weights, at other positions and some of the same: deltas, and target
/// values of codes.
std::shared_ptr<const Adapter> companion(Weights* weights) {
  testing::AdapterInput input;
  for (size_t t = 0; t < weights->specs.size(); ++t) {
    testing::TensorInput tensor;
    tensor.name = weights->specs[t].name;
    tensor.dtype = weights->specs[t].dtype;
    tensor.dims = weights->specs[t].dims;
    if (is_float(tensor.dtype)) {
      tensor.kind = ValueKind::delta;
    } else {
      tensor.value_dtype = tensor.dtype;
    }
    Bytes& is_touched = weights->is_touched[t];
    const size_t step = is_touched.size() / 64 + 1;
    for (size_t i = 0; i < is_touched.size(); i += step) {
      tensor.index.push_back(static_cast<uint32_t>(i));
      is_touched[i] = 1;
    }
    const float value = tensor.kind == ValueKind::delta ? 0.25F : -5.0F;
    tensor.set_values(std::vector<float>(tensor.index.size(), value));
    const uint8_t* base = weights->specs[t].data;
    tensor.set_base(Bytes(base, base + is_touched.size() * dtype_bytes(tensor.dtype)));
    input.tensors.push_back(std::move(tensor));
  }
  const Bytes bytes = testing::build_adapter(input);
  const auto file = AdapterFile::from_bytes(bytes.data(), bytes.size(), "companion.shb");
  FUZZ_CHECK(file.ok());
  return adapter_of(file.value(), 0);
}

std::vector<Member> choose_members(std::minstd_rand& choices) {
  static constexpr float kScales[] = {1.0F, 1.0F, 1.0F, 0.5F, -1.0F, 0.0F, 2.0F, -0.3F, 1e30F};
  std::vector<Member> members;
  for (const char* name : {"first", "second", "companion"}) {
    if (choices() % 2 != 0) members.push_back({name, kScales[choices() % 9]});
  }
  return members;
}

/// Several switches; every failure must leave everything as it was (law I2).
void switch_about(Program& program, const Weights& weights, std::minstd_rand& choices) {
  const Bytes pristine = weights.arena.pristine();
  std::vector<Member> last;
  Bytes last_bytes = pristine;
  for (int step = 0; step < 4; ++step) {
    const std::vector<Member> members = choose_members(choices);
    const auto report = program.switch_to(members);
    const Bytes now = weights.arena.live();
    if (!report.ok()) {
      FUZZ_CHECK(report.error().status == Status::NON_FINITE_RESULT);
      FUZZ_CHECK(now == last_bytes);
      continue;
    }
    weights.check_untouched_elements();
    last = members;
    last_bytes = now;
  }
  FUZZ_CHECK(program.switch_to({}).ok());
  FUZZ_CHECK(weights.arena.live() == pristine);
  // From the base, straight to where several switches led (law I4).
  FUZZ_CHECK(program.switch_to(last).ok());
  FUZZ_CHECK(weights.arena.live() == last_bytes);
  FUZZ_CHECK(program.switch_to({}).ok());
  FUZZ_CHECK(weights.arena.live() == pristine);
}

void apply(const uint8_t* data, size_t size_bytes, Arena& arena) {
  const auto file = AdapterFile::from_bytes(data, size_bytes, "fuzz.shb");
  if (!file.ok()) return;
  std::minstd_rand choices = choices_of(data, size_bytes);
  const auto number = static_cast<uint32_t>(choices() % file.value()->adapters().size());
  const std::shared_ptr<const Adapter> adapter = adapter_of(file.value(), number);
  Weights weights{arena, {}, {}};
  if (!weights.lay_out(*adapter)) return;
  const Bytes pristine = arena.pristine();

  // As it is: a fingerprint that does not fit is refused, and nothing is written.
  Program program;
  AddOptions options;
  options.allow_unverified_base = true;
  options.name = "first";
  FUZZ_CHECK(program.add_tensors(weights.specs).ok());
  FUZZ_CHECK(program.add_adapter(adapter, options).ok());
  const auto report = program.switch_to({{"first", 1.0F}});
  if (!report.ok()) {
    FUZZ_CHECK(report.error().status == Status::BASE_MISMATCH ||
               report.error().status == Status::NON_FINITE_RESULT);
    FUZZ_CHECK(arena.live() == pristine);
  }
  FUZZ_CHECK(program.switch_to({}).ok());
  FUZZ_CHECK(arena.live() == pristine);
  FUZZ_CHECK(program.remove_adapter("first").ok());

  // With fingerprints that fit, twice, so that it can be stacked.
  auto fitting = file;
  if (adapter->is_bound) {
    const Bytes forged = forge_fingerprints(data, size_bytes, weights);
    fitting = AdapterFile::from_bytes(forged.data(), forged.size(), "forged.shb");
    FUZZ_CHECK(fitting.ok());
  }
  for (const char* name : {"first", "second"}) {
    options.name = name;
    FUZZ_CHECK(program.add_adapter(adapter_of(fitting.value(), number), options).ok());
  }
  options.name = "companion";
  FUZZ_CHECK(program.add_adapter(companion(&weights), options).ok());
  switch_about(program, weights, choices);
}

}  // namespace
}  // namespace shira::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size_bytes) {
  static shira::fuzz::Arena arena;
  shira::fuzz::apply(data, size_bytes, arena);
  return 0;
}
