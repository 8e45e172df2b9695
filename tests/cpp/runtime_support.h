// Test helper: live tensors in a fake region, random adapters, and an oracle that computes every
// state from the pristine base. SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/dtype.h"
#include "base/float_bits.h"
#include "base/process_maps.h"
#include "format/adapter_file.h"
#include "runtime/program.h"
#include "shb_builder.h"

namespace shira::testing {

constexpr size_t kGuardBytes = 64;  // before and behind every live tensor

/// Memory whose answers a test chooses.
class FakeRegion : public Region {
 public:
  Result<void> check(const ProcessMaps& /*maps*/, const uint8_t* data,
                     uint64_t /*size_bytes*/) const override {
    if (data != nullptr && data == failing_data)
      return Error{failing_status, "the fake region says so"};
    return {};
  }
  bool has_source() const override { return live != nullptr; }
  Result<void> read_source(const uint8_t* data, uint64_t size_bytes, uint8_t* out) const override {
    if (live == nullptr) return Region::read_source(data, size_bytes, out);
    std::memcpy(out, pristine.data() + (data - live->data()), size_bytes);
    return {};
  }
  Result<void> hard_revert() override {
    if (live == nullptr) return Region::hard_revert();
    if (!revert_error.ok()) return revert_error;
    std::copy(pristine.begin(), pristine.end(), live->begin());
    if (is_lost_on_revert) failing_data = live->data() + kGuardBytes;
    return {};
  }

  const uint8_t* failing_data = nullptr;  // the tensor that check() refuses
  Status failing_status = Status::DETACHED;
  Bytes* live = nullptr;  // not null: the region has a source, `pristine`
  Bytes pristine;
  Error revert_error;
  bool is_lost_on_revert = false;  // from then on check() refuses the tensor
};

/// One base tensor: live bytes inside a larger buffer whose other bytes nobody may touch.
struct LiveTensor {
  std::string name;
  Dtype dtype = Dtype::f32;
  std::vector<uint32_t> dims;
  Bytes pristine;
  Bytes buffer;  // guard, tensor, guard

  size_t numel() const { return pristine.size() / dtype_bytes(dtype); }
  uint8_t* data() { return buffer.data() + kGuardBytes; }
  Bytes live() const { return Bytes(buffer.begin() + kGuardBytes, buffer.end() - kGuardBytes); }
  bool guards_intact() const {
    const auto is_guard = [](uint8_t byte) { return byte == 0xA5; };
    return std::all_of(buffer.begin(), buffer.begin() + kGuardBytes, is_guard) &&
           std::all_of(buffer.end() - kGuardBytes, buffer.end(), is_guard);
  }
};

inline LiveTensor make_tensor(std::string name, Dtype dtype, std::vector<uint32_t> dims,
                              const Bytes& base) {
  LiveTensor tensor{std::move(name), dtype, std::move(dims), base,
                    Bytes(base.size() + 2 * kGuardBytes, 0xA5)};
  std::copy(base.begin(), base.end(), tensor.data());
  return tensor;
}

/// The live tensors of a test. Addresses stay where they are once `register_with` was called.
struct Model {
  std::vector<LiveTensor> tensors;
  std::shared_ptr<FakeRegion> region = std::make_shared<FakeRegion>();

  TensorSpec spec(size_t i) {
    return TensorSpec{tensors[i].name,   tensors[i].dtype, tensors[i].dims,
                      tensors[i].data(), region,           {}};
  }
  void register_with(Program* program) {
    for (size_t i = 0; i < tensors.size(); ++i) {
      const Result<void> added = program->add_tensor(spec(i));
      if (!added.ok()) std::abort();
    }
  }
  std::vector<Bytes> live() const {
    std::vector<Bytes> bytes;
    for (const LiveTensor& tensor : tensors) bytes.push_back(tensor.live());
    return bytes;
  }
  std::vector<Bytes> pristine() const {
    std::vector<Bytes> bytes;
    for (const LiveTensor& tensor : tensors) bytes.push_back(tensor.pristine);
    return bytes;
  }
  bool guards_intact() const {
    return std::all_of(tensors.begin(), tensors.end(),
                       [](const LiveTensor& t) { return t.guards_intact(); });
  }
};

/// A number near zero, sometimes -0.0, subnormal or exactly representable with ties in 16 bits.
inline float random_value(std::mt19937_64& random, Dtype dtype) {
  switch (random() % 16) {
    case 0:
      return -0.0F;
    case 1:
      return dtype == Dtype::f16 ? 0x1p-24F * static_cast<float>(1 + random() % 900)
                                 : std::ldexp(static_cast<float>(1 + random() % 100),
                                              dtype == Dtype::f32 ? -149 : -133);
    case 2:
      return static_cast<float>(static_cast<int>(random() % 4097) - 2048);
    default:
      return std::uniform_real_distribution<float>(-2.0F, 2.0F)(random);
  }
}

inline Bytes random_bytes(std::mt19937_64& random, Dtype dtype, size_t count) {
  std::vector<float> values(count);
  for (float& value : values) value = random_value(random, dtype);
  return encode_values(dtype, values);
}

/// Strictly increasing positions in the shape that `codec` demands.
inline std::vector<uint32_t> random_index(std::mt19937_64& random, IndexCodec codec,
                                          uint32_t block_length, size_t numel, double density) {
  std::vector<uint32_t> index;
  const bool blocks = codec == IndexCodec::blocks8 || codec == IndexCodec::blocks16;
  const size_t unit = blocks ? block_length : 1;
  std::bernoulli_distribution starts(density);
  for (size_t i = 0; i + unit <= numel;) {
    if (!starts(random)) {
      i += unit;
      continue;
    }
    const size_t length =
        codec == IndexCodec::runs ? std::min<size_t>(1 + random() % 20, numel - i) : unit;
    for (size_t j = 0; j < length; ++j) index.push_back(static_cast<uint32_t>(i + j));
    i += length;
  }
  if (index.empty()) {
    for (size_t j = 0; j < unit; ++j) index.push_back(static_cast<uint32_t>(j));
  }
  return index;
}

/// Random target values or deltas at random positions of one tensor; some targets equal the base.
inline TensorInput random_tensor(std::mt19937_64& random, const LiveTensor& base, ValueKind kind,
                                 double density) {
  static constexpr IndexCodec kCodecs[] = {IndexCodec::gaps8, IndexCodec::gaps16, IndexCodec::runs,
                                           IndexCodec::blocks8, IndexCodec::blocks16};
  TensorInput input;
  input.name = base.name;
  input.dtype = base.dtype;
  input.dims = base.dims;
  input.codec = kCodecs[random() % 5];
  const bool blocks = input.codec == IndexCodec::blocks8 || input.codec == IndexCodec::blocks16;
  input.block_length = blocks ? 2 + static_cast<uint32_t>(random() % 7) : 0;
  input.index = random_index(random, input.codec, input.block_length, base.numel(), density);
  input.kind = kind;
  input.value_dtype = kind == ValueKind::target ? base.dtype : static_cast<Dtype>(1 + random() % 3);
  input.values = random_bytes(random, input.value_dtype, input.index.size());
  if (kind == ValueKind::target) {
    const size_t width = dtype_bytes(base.dtype);
    for (size_t i = 0; i < input.index.size(); i += 7) {
      std::memcpy(&input.values[i * width], &base.pristine[input.index[i] * width], width);
    }
  }
  input.set_base(base.pristine);
  return input;
}

/// An adapter as bytes, as an open file, and as plain arrays.
struct TestAdapter {
  AdapterInput input;
  std::shared_ptr<const AdapterFile> file;
};

inline TestAdapter seal(AdapterInput input) {
  const Bytes bytes = build_adapter(input);
  Result<std::shared_ptr<const AdapterFile>> file =
      AdapterFile::from_bytes(bytes.data(), bytes.size(), input.name + ".shb");
  if (!file.ok()) {
    fprintf(stderr, "the test's own adapter is refused: %s\n", file.error().message.c_str());
    std::abort();
  }
  return TestAdapter{std::move(input), std::move(file.value())};
}

inline TestAdapter random_adapter(std::mt19937_64& random, const std::string& name,
                                  const Model& model, ValueKind kind, double density = 0.05) {
  AdapterInput input;
  input.name = name;
  for (const LiveTensor& tensor : model.tensors) {
    if (model.tensors.size() == 1 || random() % 4 != 0) {
      input.tensors.push_back(random_tensor(random, tensor, kind, density));
    }
  }
  if (input.tensors.empty())
    input.tensors.push_back(random_tensor(random, model.tensors[0], kind, density));
  return seal(std::move(input));
}

/// An adapter with these target values at these positions of one tensor.
inline TestAdapter simple_adapter(const std::string& name, const LiveTensor& base,
                                  std::vector<uint32_t> index, const std::vector<float>& values) {
  TensorInput tensor;
  tensor.name = base.name;
  tensor.dtype = base.dtype;
  tensor.dims = base.dims;
  tensor.codec = IndexCodec::gaps16;
  tensor.index = std::move(index);
  tensor.value_dtype = base.dtype;
  tensor.set_values(values);
  tensor.set_base(base.pristine);
  AdapterInput input;
  input.name = name;
  input.tensors = {tensor};
  return seal(std::move(input));
}

// --- The oracle: FORMAT.md section 11 on dense arrays, one element at a time.

inline float widen(Dtype dtype, const uint8_t* element) {
  float value = 0;
  uint16_t half = 0;
  if (dtype == Dtype::f32) {
    std::memcpy(&value, element, 4);
    return value;
  }
  std::memcpy(&half, element, 2);
  return dtype == Dtype::f16 ? f16_to_f32(half) : bf16_to_f32(half);
}

inline void narrow(Dtype dtype, float value, uint8_t* element) {
  if (dtype == Dtype::f32) {
    std::memcpy(element, &value, 4);
    return;
  }
  const uint16_t half = dtype == Dtype::f16 ? narrow_f16(value) : narrow_bf16(value);
  std::memcpy(element, &half, 2);
}

using Adapters = std::map<std::string, TestAdapter>;

/// The members that count, in the order of summation.
inline std::vector<Member> normalise(const Adapters& adapters, std::vector<Member> members) {
  members.erase(std::remove_if(members.begin(), members.end(),
                               [](const Member& member) { return member.scale == 0.0F; }),
                members.end());
  std::sort(members.begin(), members.end(), [&](const Member& a, const Member& b) {
    const auto& digest_a = adapters.at(a.name).file->content_digest();
    const auto& digest_b = adapters.at(b.name).file->content_digest();
    return std::tie(digest_a, a.scale, a.name) < std::tie(digest_b, b.scale, b.name);
  });
  return members;
}

/// The bytes of every tensor under `members`, and which elements a member touches.
struct Expected {
  std::vector<Bytes> bytes;
  std::vector<std::vector<uint8_t>> touched;  // 0 or 1 by tensor and flat index
};

inline Expected expected_state(const Model& model, const Adapters& adapters,
                               const std::vector<Member>& members) {
  Expected expected{model.pristine(), {}};
  const std::vector<Member> ordered = normalise(adapters, members);
  for (size_t t = 0; t < model.tensors.size(); ++t) {
    const LiveTensor& tensor = model.tensors[t];
    const size_t width = dtype_bytes(tensor.dtype);
    struct Cell {
      int count = 0;
      float sum = 0;
      const uint8_t* exact = nullptr;
    };
    std::vector<Cell> cells(tensor.numel());
    for (const Member& member : ordered) {
      for (const TensorInput& input : adapters.at(member.name).input.tensors) {
        if (input.name != tensor.name) continue;
        for (size_t i = 0; i < input.index.size(); ++i) {
          const uint8_t* value = &input.values[i * dtype_bytes(input.value_dtype)];
          const float base = widen(tensor.dtype, &tensor.pristine[input.index[i] * width]);
          const bool is_target = input.kind == ValueKind::target;
          const float change =
              is_target ? widen(input.value_dtype, value) - base : widen(input.value_dtype, value);
          const float contribution = member.scale * change;
          Cell& cell = cells[input.index[i]];
          cell.sum = cell.count == 0 ? contribution : cell.sum + contribution;
          const bool is_exact = cell.count == 0 && is_target && member.scale == 1.0F;
          cell.exact = is_exact ? value : nullptr;
          ++cell.count;
        }
      }
    }
    std::vector<uint8_t> touched(cells.size());
    for (size_t index = 0; index < cells.size(); ++index) {
      if (cells[index].count == 0) continue;
      touched[index] = 1;
      uint8_t* out = &expected.bytes[t][index * width];
      if (cells[index].exact != nullptr) {
        std::memcpy(out, cells[index].exact, width);
      } else {
        narrow(tensor.dtype, widen(tensor.dtype, out) + cells[index].sum, out);
      }
    }
    expected.touched.push_back(std::move(touched));
  }
  return expected;
}

}  // namespace shira::testing
