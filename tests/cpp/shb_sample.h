// The .shb files that the format tests corrupt: small ones that together use every construct.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "format/adapter_file.h"
#include "shb_builder.h"

namespace shira::testing {

/// A base in which every element has the same bits: numbers as long as they are floats.
inline Bytes base_of(const std::vector<uint32_t>& dims, Dtype dtype) {
  size_t element_count = 1;
  for (const uint32_t dim : dims) element_count *= dim;
  return Bytes(element_count * dtype_bytes(dtype), is_float(dtype) ? 0x11 : 0x03);
}

/// Target values -1.5, -0.5, 0.5, ... at `index`; integer dtypes take the integers from -1 on.
inline TensorInput tensor(const std::string& name, Dtype dtype, const std::vector<uint32_t>& dims,
                          IndexCodec codec, const std::vector<uint32_t>& index,
                          uint32_t block_length = 1) {
  TensorInput input;
  input.name = name;
  input.dtype = dtype;
  input.dims = dims;
  input.codec = codec;
  input.index = index;
  input.block_length = block_length;
  input.value_dtype = dtype;
  std::vector<float> values;
  for (size_t i = 0; i < index.size(); ++i) {
    values.push_back(is_float(dtype) ? static_cast<float>(i) - 1.5F
                                     : static_cast<float>(i % 16) - 8.0F);
  }
  input.set_values(values);
  input.set_base(base_of(dims, dtype));
  return input;
}

/// The same with scaled deltas: every level in turn, and a scale of 0.5 for each group of 64.
inline TensorInput scaled_tensor(const std::string& name, Dtype dtype,
                                 const std::vector<uint32_t>& dims, IndexCodec codec,
                                 const std::vector<uint32_t>& index, ValueCodec value_codec) {
  TensorInput input = tensor(name, dtype, dims, codec, index);
  input.kind = ValueKind::delta;
  input.values.clear();
  ScaledValues scaled;
  scaled.codec = value_codec;
  scaled.exponent = -2;
  scaled.scales.assign((index.size() + 63) / 64, 0x3800);
  for (int i = 0; i < static_cast<int>(index.size()); ++i) {
    const int level = value_codec == ValueCodec::q8   ? i % 256 - 128
                      : value_codec == ValueCodec::q4 ? i % 16 - 8
                      : value_codec == ValueCodec::q2 ? 2 * (i % 4) - 3
                                                      : 2 * (i % 2) - 1;
    scaled.levels.push_back(level);
  }
  input.scaled = scaled;
  return input;
}

/// One adapter, one tier: every float dtype, target values and deltas, padding behind streams.
inline AdapterInput sample_input() {
  AdapterInput input;
  input.name = "german";
  input.metadata = "{\"base\": \"tiny\"}";
  input.tensors.push_back(tensor("alpha", Dtype::f32, {4, 8}, IndexCodec::gaps8, {0, 3, 9, 31}));
  input.tensors.push_back(tensor("beta", Dtype::bf16, {6, 4}, IndexCodec::gaps8,
                                 {0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19}, 4));
  TensorInput gamma = tensor("gamma", Dtype::f16, {300}, IndexCodec::runs, {5, 6, 7, 100, 299});
  gamma.kind = ValueKind::delta;
  gamma.value_dtype = Dtype::f32;
  gamma.set_values({1, 2, -0.0F, 4, 5});
  input.tensors.push_back(gamma);
  input.tensors.push_back(
      tensor("zeta", Dtype::f16, {70000, 2}, IndexCodec::gaps16, {65534, 139998, 139999}));
  return input;
}

inline Bytes sample() { return build_adapter(sample_input()); }

inline AdapterInput unbound_input() {
  AdapterInput input = sample_input();
  input.bound = false;
  for (TensorInput& tensor : input.tensors) tensor.kind = ValueKind::delta;
  return input;
}

/// Every `step`-th number from `begin` on, `count` of them.
inline std::vector<uint32_t> stride(uint32_t begin, uint32_t step, uint32_t count) {
  std::vector<uint32_t> numbers(count);
  for (uint32_t i = 0; i < count; ++i) numbers[i] = begin + i * step;
  return numbers;
}

/// Puts a row into tier 1 above `lower`.
inline TensorInput above(const TensorInput& lower, TensorInput row) {
  std::vector<uint32_t> positions = lower.index;
  positions.insert(positions.end(), row.index.begin(), row.index.end());
  std::sort(positions.begin(), positions.end());
  row.tier = 1;
  row.set_base(base_of(row.dims, row.dtype), positions);
  return row;
}

/// A pack of two adapters in two tiers, the second unbound: shared positions, Rice coding, scaled
/// values, integer codes, an optional section.
///
/// Rows of TENSORS: 0 code.i4, 1 code.i8, 2 q.four, 3 q.two, 4 w (tier 0), 5 code.i4, 6 q.one,
/// 7 w (tier 1), all of "german"; 8 q.eight, 9 q.four (tier 0), 10 w (tier 1) of the other.
inline FileInput pack_input() {
  const std::vector<uint32_t> many = stride(2, 3, 131);  // two groups and a bit
  AdapterInput german;
  german.name = "german";
  german.metadata = "{\"license\":\"x\"}";
  TensorInput code = tensor("code.i4", Dtype::i4, {5, 5}, IndexCodec::gaps8, {0, 7, 20});
  TensorInput w = tensor("w", Dtype::f16, {8, 8}, IndexCodec::runs, {2, 3, 4, 40, 41});
  german.tensors = {
      code,
      tensor("code.i8", Dtype::i8, {40}, IndexCodec::gaps16, {1, 39}),
      scaled_tensor("q.four", Dtype::f32, {400}, IndexCodec::rice, many, ValueCodec::q4),
      scaled_tensor("q.two", Dtype::bf16, {400}, IndexCodec::rice, many, ValueCodec::q2),
      w,
      above(code, tensor("code.i4", Dtype::i4, {5, 5}, IndexCodec::rice, {1, 2, 19, 24})),
      above({}, scaled_tensor("q.one", Dtype::f16, {400}, IndexCodec::rice, many, ValueCodec::q1)),
      above(w, tensor("w", Dtype::f16, {8, 8}, IndexCodec::gaps8, {0, 1, 5, 63}))};
  for (TensorInput& row : german.tensors) row.rice_bits = row.codec == IndexCodec::rice ? 1 : 0;
  AdapterInput french;
  french.name =
      "fran\xC3\xA7"
      "ais";
  french.bound = false;
  french.tensors = {
      german.tensors[2],
      scaled_tensor("q.eight", Dtype::f32, {400}, IndexCodec::rice, many, ValueCodec::q8),
      german.tensors[7]};
  french.tensors[1].rice_bits = 1;
  french.tensors[2].kind = ValueKind::delta;
  FileInput input;
  input.adapters = {german, french};
  input.tier_count = 2;
  input.optional = {{40000, {1, 2, 3}}};
  return input;
}

inline Bytes pack() { return build_file(pack_input()); }

/// One adapter of derived masks: 0 column, 1 largest, 2 seeded.
inline AdapterInput derived_input() {
  AdapterInput input;
  input.name = "derived";
  TensorInput column =
      tensor("column", Dtype::f32, {4, 6}, IndexCodec::structured, {1, 4, 7, 10, 13, 16, 19, 22});
  column.coded = EncodedIndex{encode_structured(MaskRule::kColumnPart, 6, 3, 1), 1};
  TensorInput largest = tensor("largest", Dtype::bf16, {10}, IndexCodec::top_magnitude, {0, 1, 2});
  largest.coded = EncodedIndex{{}, 1};
  // Stratum i of 4 blocks is block i alone, whatever the seed.
  TensorInput seeded =
      tensor("seeded", Dtype::f16, {9}, IndexCodec::random, {0, 1, 2, 3, 4, 5, 6, 7}, 2);
  seeded.coded = EncodedIndex{encode_seed(0x0123456789ABCDEF), 4};
  input.tensors = {column, largest, seeded};
  return input;
}

/// The sample without an INDEX of its own: it refers to that of `source`, a file of one tier.
inline Bytes referring_to(const Bytes& source) {
  FileInput input;
  input.adapters = {sample_input()};
  input.adapters[0].name = "refers";
  input.references[0] = Sha256::digest(split(source).sections[4].bytes);
  return build_file(input);
}

enum SectionNumber : size_t { kAdapters, kTensors, kNames, kMetadata, kIndex, kValues };

inline Result<std::shared_ptr<const AdapterFile>> read(const Bytes& file,
                                                       const OpenOptions& options = {}) {
  return AdapterFile::from_bytes(file.data(), file.size(), "test.shb", options);
}

}  // namespace shira::testing
