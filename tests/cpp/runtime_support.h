// Test helper: live tensors, random adapters, and an oracle that computes every state from the
// pristine base. SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "base/dtype.h"
#include "base/float_bits.h"
#include "program_adapters.h"
#include "program_model.h"

namespace shira::testing {

// --- The oracle: FORMAT.md section 11 on dense arrays, one element at a time.

inline float widen(Dtype dtype, const uint8_t* element) {
  float value = 0;
  uint16_t half = 0;
  if (!is_float(dtype)) return static_cast<int8_t>(*element);
  if (dtype == Dtype::f32) {
    std::memcpy(&value, element, 4);
    return value;
  }
  std::memcpy(&half, element, 2);
  return dtype == Dtype::f16 ? f16_to_f32(half) : bf16_to_f32(half);
}

inline void narrow(Dtype dtype, float value, uint8_t* element) {
  if (!is_float(dtype)) {
    const float lowest = dtype == Dtype::i8 ? -128.0F : -8.0F;
    const float code = std::clamp(std::nearbyint(value), lowest, -lowest - 1);
    *element = static_cast<uint8_t>(static_cast<int8_t>(code));
    return;
  }
  if (dtype == Dtype::f32) {
    std::memcpy(element, &value, 4);
    return;
  }
  const uint16_t half = dtype == Dtype::f16 ? narrow_f16(value) : narrow_bf16(value);
  std::memcpy(element, &half, 2);
}

/// Entry `i` of a row as a reader gets it (section 10).
inline float entry_value(const TensorInput& tensor, size_t i) {
  if (!tensor.scaled)
    return widen(tensor.value_dtype, &tensor.values[i * dtype_bytes(tensor.value_dtype)]);
  const ScaledValues& scaled = *tensor.scaled;
  const double scale = f16_to_f32(scaled.scales[i / scaled.group]);
  return static_cast<float>(std::ldexp(scaled.levels[i] * scale, scaled.exponent));
}

using Adapters = std::map<std::string, TestAdapter>;

/// The members that count, in the order of summation.
inline std::vector<Member> normalise(const Adapters& adapters, std::vector<Member> members) {
  members.erase(std::remove_if(members.begin(), members.end(),
                               [](const Member& member) { return member.scale == 0.0F; }),
                members.end());
  std::sort(members.begin(), members.end(), [&](const Member& a, const Member& b) {
    const Adapter& source_a = *adapters.at(a.name).source;
    const Adapter& source_b = *adapters.at(b.name).source;
    const auto& digest_a = source_a.file->content_digest();
    const auto& digest_b = source_b.file->content_digest();
    const uint32_t tiers_a = source_a.file->opened_tier_count();
    const uint32_t tiers_b = source_b.file->opened_tier_count();
    return std::tie(digest_a, source_a.number, a.scale, tiers_a, a.name) <
           std::tie(digest_b, source_b.number, b.scale, tiers_b, b.name);
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
          const float value = entry_value(input, i);
          const float base = widen(tensor.dtype, &tensor.pristine[input.index[i] * width]);
          const bool is_target = input.kind == ValueKind::target;
          const float change = is_target ? value - base : value;
          const float contribution = member.scale * change;
          Cell& cell = cells[input.index[i]];
          cell.sum = cell.count == 0 ? contribution : cell.sum + contribution;
          const bool is_exact = cell.count == 0 && is_target && member.scale == 1.0F;
          cell.exact = is_exact ? &input.values[i * width] : nullptr;
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
