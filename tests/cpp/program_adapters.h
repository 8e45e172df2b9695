// Test helper: random adapters of every coding, as open files and as plain arrays.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "format/adapter_file.h"
#include "program_model.h"
#include "shb_builder.h"

namespace shira::testing {

/// Strictly increasing positions: whole aligned blocks, or runs of any length.
inline std::vector<uint32_t> random_index(std::mt19937_64& random, IndexCodec codec,
                                          uint32_t block_length, size_t numel, double density) {
  std::vector<uint32_t> index;
  // How many blocks lie between two that start: far fewer draws than one for each block.
  std::geometric_distribution<size_t> gap(std::min(density, 0.999));
  for (size_t i = gap(random) * block_length; i + block_length <= numel;) {
    const size_t length =
        codec == IndexCodec::runs ? std::min<size_t>(1 + random() % 20, numel - i) : block_length;
    for (size_t j = 0; j < length; ++j) index.push_back(static_cast<uint32_t>(i + j));
    i += length + gap(random) * block_length;
  }
  if (index.empty()) {
    for (uint32_t j = 0; j < block_length; ++j) index.push_back(j);
  }
  return index;
}

// --- Derived masks, found in the slowest way that FORMAT.md section 9 allows.

inline void set_structured(TensorInput* tensor, size_t numel, uint8_t parts, uint32_t period,
                           uint32_t phase) {
  const uint32_t columns = tensor->dims.back();
  tensor->codec = IndexCodec::structured;
  tensor->coded = EncodedIndex{encode_structured(parts, columns, period, phase), 1};
  tensor->index.clear();
  for (uint32_t i = 0; i < numel; ++i) {
    const uint32_t row = i / columns;
    const uint32_t column = i % columns;
    if (((parts & 1) != 0 && row % period == phase) ||
        ((parts & 2) != 0 && column % period == phase) || ((parts & 4) != 0 && row == column))
      tensor->index.push_back(i);
  }
}

inline void set_seeded(TensorInput* tensor, size_t numel, uint64_t seed, uint32_t block_length,
                       uint64_t unit_count) {
  tensor->codec = IndexCodec::random;
  tensor->block_length = block_length;
  tensor->coded = EncodedIndex{encode_seed(seed), static_cast<uint32_t>(unit_count)};
  tensor->index.clear();
  const uint64_t block_count = numel / block_length;
  for (uint64_t i = 0; i < unit_count; ++i) {
    const uint64_t begin = i * block_count / unit_count;
    const uint64_t end = (i + 1) * block_count / unit_count;
    uint64_t z = seed + (i + 1) * 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    z = z ^ (z >> 31);
    const uint64_t block = begin + (((z >> 32) * (end - begin)) >> 32);
    for (uint64_t j = 0; j < block_length; ++j)
      tensor->index.push_back(static_cast<uint32_t>(block * block_length + j));
  }
}

inline uint32_t magnitude_bits(Dtype dtype, const uint8_t* element) {
  uint32_t bits = 0;
  std::memcpy(&bits, element, dtype_bytes(dtype));
  return bits & (dtype == Dtype::f32 ? 0x7FFFFFFFU : 0x7FFFU);
}

inline void set_top_magnitude(TensorInput* tensor, const LiveTensor& base, size_t entry_count) {
  tensor->codec = IndexCodec::top_magnitude;
  tensor->coded = EncodedIndex{{}, 1};
  const size_t width = dtype_bytes(base.dtype);
  std::vector<uint32_t> order(base.numel());
  for (uint32_t i = 0; i < order.size(); ++i) order[i] = i;
  const auto magnitude = [&](uint32_t i) {
    return magnitude_bits(base.dtype, &base.pristine[i * width]);
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return magnitude(a) > magnitude(b); });
  order.resize(entry_count);
  std::sort(order.begin(), order.end());
  tensor->index = std::move(order);
}

/// Positions and their coding, of any kind that a file of one tier may have.
inline void set_random_mask(std::mt19937_64& random, const LiveTensor& base, double density,
                            TensorInput* tensor) {
  static constexpr IndexCodec kCodecs[] = {
      IndexCodec::gaps8,      IndexCodec::gaps16, IndexCodec::rice,         IndexCodec::runs,
      IndexCodec::structured, IndexCodec::random, IndexCodec::top_magnitude};
  const size_t numel = base.numel();
  const uint32_t columns = base.dims.back();
  const auto wanted = static_cast<uint32_t>(std::max(1.0, density * static_cast<double>(numel)));
  tensor->codec = kCodecs[random() % (is_float(base.dtype) ? 7 : 6)];  // TOPK is for floats
  tensor->coded.reset();
  tensor->rice_bits = 0;
  tensor->block_length = random() % 2 == 0 ? 1 : 2 + static_cast<uint32_t>(random() % 7);
  switch (tensor->codec) {
    case IndexCodec::structured: {
      const auto parts = static_cast<uint8_t>(1 + random() % 7);
      const uint32_t period = parts == 4 ? 1 : 2 + static_cast<uint32_t>(random() % 20);
      const auto lines = std::min<uint64_t>(columns, numel / columns);
      return set_structured(tensor, numel, parts, period,
                            static_cast<uint32_t>(random() % std::min<uint64_t>(period, lines)));
    }
    case IndexCodec::random:
      return set_seeded(tensor, numel, random(), tensor->block_length,
                        std::max(1U, wanted / tensor->block_length));
    case IndexCodec::top_magnitude:
      return set_top_magnitude(tensor, base, wanted);
    case IndexCodec::runs:
      tensor->block_length = 1;
      break;
    default:
      if (tensor->codec == IndexCodec::rice) tensor->rice_bits = random() % 8;
  }
  tensor->index = random_index(random, tensor->codec, tensor->block_length, numel, density);
}

/// Values for `tensor->index`: targets of the base's dtype, some of them equal to the base, or
/// deltas of any codec.
inline void set_random_values(std::mt19937_64& random, const LiveTensor& base, ValueCodec codec,
                              TensorInput* tensor) {
  const size_t count = tensor->index.size();
  if (is_scaled(codec)) {
    ScaledValues scaled;
    scaled.codec = codec;
    scaled.group = 64 + 8 * static_cast<uint32_t>(random() % 4);
    scaled.exponent = static_cast<int8_t>(static_cast<int>(random() % 9) - 12);
    const size_t scale_count = (count + scaled.group - 1) / scaled.group;
    for (size_t i = 0; i < scale_count; ++i)
      scaled.scales.push_back(static_cast<uint16_t>(random() % 0x6000));
    for (size_t i = 0; i < count; ++i) {
      const int code = static_cast<int>(random() % 256);
      scaled.levels.push_back(codec == ValueCodec::q8   ? code - 128
                              : codec == ValueCodec::q4 ? code % 16 - 8
                              : codec == ValueCodec::q2 ? 2 * (code % 4) - 3
                                                        : 2 * (code % 2) - 1);
    }
    tensor->scaled = std::move(scaled);
    return;
  }
  tensor->value_dtype = static_cast<Dtype>(codec);
  tensor->values = random_bytes(random, tensor->value_dtype, count);
  if (tensor->kind == ValueKind::delta) return;
  const size_t width = dtype_bytes(base.dtype);
  for (size_t i = 0; i < count; i += 7) {
    std::memcpy(&tensor->values[i * width], &base.pristine[tensor->index[i] * width], width);
  }
}

inline ValueCodec random_codec(std::mt19937_64& random, const LiveTensor& base, ValueKind kind) {
  static constexpr ValueCodec kDeltas[] = {ValueCodec::f32, ValueCodec::f16, ValueCodec::bf16,
                                           ValueCodec::q8,  ValueCodec::q4,  ValueCodec::q2,
                                           ValueCodec::q1};
  return kind == ValueKind::target ? static_cast<ValueCodec>(base.dtype) : kDeltas[random() % 7];
}

inline TensorInput tensor_of(const LiveTensor& base, ValueKind kind) {
  TensorInput input;
  input.name = base.name;
  input.dtype = base.dtype;
  input.dims = base.dims;
  input.kind = kind;
  return input;
}

/// Random target values or deltas at random positions of one tensor; codes have no deltas.
inline TensorInput random_tensor(std::mt19937_64& random, const LiveTensor& base, ValueKind kind,
                                 double density) {
  if (!is_float(base.dtype)) kind = ValueKind::target;
  TensorInput input = tensor_of(base, kind);
  set_random_mask(random, base, density, &input);
  set_random_values(random, base, random_codec(random, base, kind), &input);
  input.set_base(base.pristine);
  return input;
}

/// The same in `tier_count` rows, each with at least one entry.
inline std::vector<TensorInput> random_tiers(std::mt19937_64& random, const LiveTensor& base,
                                             ValueKind kind, double density, uint8_t tier_count) {
  if (!is_float(base.dtype)) kind = ValueKind::target;
  std::vector<uint32_t> index = random_index(random, IndexCodec::runs, 1, base.numel(), density);
  if (index.size() < tier_count) {
    index.resize(tier_count);
    for (uint8_t i = 0; i < tier_count; ++i) index[i] = i;
  }
  std::vector<TensorInput> rows(tier_count, tensor_of(base, kind));
  for (size_t i = 0; i < index.size(); ++i)
    rows[i < tier_count ? i : random() % tier_count].index.push_back(index[i]);
  const ValueCodec codec = random_codec(random, base, kind);
  std::vector<uint32_t> so_far;
  for (uint8_t tier = 0; tier < tier_count; ++tier) {
    TensorInput& row = rows[tier];
    row.tier = tier;
    row.codec = random() % 2 == 0 ? IndexCodec::runs : IndexCodec::gaps8;
    set_random_values(random, base, codec, &row);
    so_far.insert(so_far.end(), row.index.begin(), row.index.end());
    std::sort(so_far.begin(), so_far.end());
    row.set_base(base.pristine, so_far);
  }
  return rows;
}

/// An adapter as an open file, and as plain arrays: its rows in the opened tiers.
struct TestAdapter {
  AdapterInput input;
  std::shared_ptr<const Adapter> source;
};

/// The adapters of one file, of which the first `opened_tier_count` tiers are opened (0: all).
inline std::vector<TestAdapter> seal_pack(const std::vector<AdapterInput>& inputs,
                                          uint32_t opened_tier_count = 0) {
  FileInput file_input;
  file_input.adapters = inputs;
  for (const AdapterInput& input : inputs) {
    for (const TensorInput& row : input.tensors)
      file_input.tier_count = std::max(file_input.tier_count, row.tier + 1U);
  }
  const Bytes bytes = build_file(file_input);
  OpenOptions options;
  options.tier_count = opened_tier_count;
  const Result<std::shared_ptr<const AdapterFile>> file =
      AdapterFile::from_bytes(bytes.data(), bytes.size(), inputs[0].name + ".shb", options);
  if (!file.ok()) {
    fprintf(stderr, "the test's own adapter is refused: %s\n", file.error().message.c_str());
    std::abort();
  }
  std::vector<TestAdapter> adapters;
  for (uint32_t i = 0; i < inputs.size(); ++i) {
    AdapterInput input = inputs[i];
    const auto is_closed = [&](const TensorInput& row) {
      return opened_tier_count > 0 && row.tier >= opened_tier_count;
    };
    input.tensors.erase(std::remove_if(input.tensors.begin(), input.tensors.end(), is_closed),
                        input.tensors.end());
    adapters.push_back(TestAdapter{std::move(input), adapter_of(file.value(), i)});
  }
  return adapters;
}

inline TestAdapter seal(const AdapterInput& input) { return seal_pack({input})[0]; }

/// Some of the model's tensors with all codecs mixed; now and then in tiers.
inline AdapterInput random_input(std::mt19937_64& random, const std::string& name,
                                 const Model& model, ValueKind kind, double density,
                                 uint8_t tier_count = 1) {
  AdapterInput input;
  input.name = name;
  const auto add = [&](const LiveTensor& tensor) {
    const std::vector<TensorInput> rows =
        tier_count == 1 ? std::vector<TensorInput>{random_tensor(random, tensor, kind, density)}
                        : random_tiers(random, tensor, kind, density, tier_count);
    input.tensors.insert(input.tensors.end(), rows.begin(), rows.end());
  };
  for (const LiveTensor& tensor : model.tensors) {
    if (model.tensors.size() == 1 || random() % 4 != 0) add(tensor);
  }
  if (input.tensors.empty()) add(model.tensors[0]);
  return input;
}

inline TestAdapter random_adapter(std::mt19937_64& random, const std::string& name,
                                  const Model& model, ValueKind kind, double density = 0.05) {
  return seal(random_input(random, name, model, kind, density));
}

/// Target values at these positions of one tensor.
inline TensorInput simple_tensor(const LiveTensor& base, std::vector<uint32_t> index,
                                 const std::vector<float>& values) {
  TensorInput tensor = tensor_of(base, ValueKind::target);
  tensor.codec = IndexCodec::gaps16;
  tensor.index = std::move(index);
  tensor.value_dtype = base.dtype;
  tensor.set_values(values);
  tensor.set_base(base.pristine);
  return tensor;
}

/// An adapter with these target values at these positions of one tensor.
inline TestAdapter simple_adapter(const std::string& name, const LiveTensor& base,
                                  std::vector<uint32_t> index, const std::vector<float>& values) {
  AdapterInput input;
  input.name = name;
  input.tensors = {simple_tensor(base, std::move(index), values)};
  return seal(input);
}

}  // namespace shira::testing
