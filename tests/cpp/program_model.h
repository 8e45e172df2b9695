// Test helper: live tensors in a fake region, with guards around them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/dtype.h"
#include "base/process_maps.h"
#include "fake_layout.h"
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
/// `pristine` and live() have the elements one behind the other, also where a layout has them
/// elsewhere.
struct LiveTensor {
  std::string name;
  Dtype dtype = Dtype::f32;
  std::vector<uint32_t> dims;
  Bytes pristine;
  Bytes buffer;  // guard, tensor, guard
  std::shared_ptr<FakeLayout> layout{};

  size_t numel() const { return pristine.size() / dtype_bytes(dtype); }
  uint8_t* data() { return buffer.data() + kGuardBytes; }
  Bytes live_bytes() const {
    return Bytes(buffer.begin() + kGuardBytes, buffer.end() - kGuardBytes);
  }
  Bytes live() const { return layout ? layout->unpack(live_bytes().data()) : live_bytes(); }
  /// What lies beside the elements is what packing would put there.
  bool is_packed_right() const { return !layout || layout->pack(live()) == live_bytes(); }
  /// Somebody else's store: turns the lowest bit around, and keeps what lies beside right.
  void flip(uint32_t index) {
    const size_t width = dtype_bytes(dtype);
    const Bytes elements = live();
    Bytes value(&elements[index * width], &elements[index * width] + width);
    value[0] ^= 1;
    if (layout) return layout->store(&index, 1, value.data());
    std::copy(value.begin(), value.end(), data() + index * width);
  }
  ElementPlace place_of(size_t index) const {
    const uint64_t offset = index * dtype_bytes(dtype);
    return layout ? layout->place_of(static_cast<uint32_t>(index)) : ElementPlace{offset, offset};
  }
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

/// The same elements, packed in blocks of rows.
inline LiveTensor make_packed_tensor(std::string name, Dtype dtype, std::vector<uint32_t> dims,
                                     const Bytes& base, uint32_t block_rows) {
  const auto numel = static_cast<uint32_t>(base.size() / dtype_bytes(dtype));
  const auto layout =
      std::make_shared<FakeLayout>(dtype, numel / dims.back(), dims.back(), block_rows);
  LiveTensor tensor = make_tensor(std::move(name), dtype, std::move(dims), layout->pack(base));
  tensor.pristine = base;
  tensor.layout = layout;
  return tensor;
}

/// The live tensors of a test. Addresses stay where they are once `register_with` was called.
struct Model {
  std::vector<LiveTensor> tensors;
  std::shared_ptr<FakeRegion> region = std::make_shared<FakeRegion>();

  TensorSpec spec(size_t i) {
    if (tensors[i].layout) tensors[i].layout->bind(tensors[i].data());
    return TensorSpec{tensors[i].name,   tensors[i].dtype, tensors[i].dims,
                      tensors[i].data(), region,           {},
                      tensors[i].layout};
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
  /// What is in memory, with what lies beside the elements.
  std::vector<Bytes> live_bytes() const {
    std::vector<Bytes> bytes;
    for (const LiveTensor& tensor : tensors) bytes.push_back(tensor.live_bytes());
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
  bool is_packed_right() const {
    return std::all_of(tensors.begin(), tensors.end(),
                       [](const LiveTensor& t) { return t.is_packed_right(); });
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
  for (float& value : values) {
    value = dtype == Dtype::i8   ? static_cast<float>(static_cast<int>(random() % 256) - 128)
            : dtype == Dtype::i4 ? static_cast<float>(static_cast<int>(random() % 16) - 8)
                                 : random_value(random, dtype);
  }
  return encode_values(dtype, values);
}

}  // namespace shira::testing
