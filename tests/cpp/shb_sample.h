// The .shb file that the format tests corrupt: four tensors, every dtype, padding behind streams.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "format/adapter_file.h"
#include "shb_builder.h"

namespace shira::testing {

inline TensorInput tensor(const std::string& name, Dtype dtype, const std::vector<uint32_t>& dims,
                          IndexCodec codec, const std::vector<uint32_t>& index,
                          uint32_t block_length = 0) {
  TensorInput input;
  input.name = name;
  input.dtype = dtype;
  input.dims = dims;
  input.codec = codec;
  input.index = index;
  input.block_length = block_length;
  input.value_dtype = dtype;
  std::vector<float> values;
  for (size_t i = 0; i < index.size(); ++i) values.push_back(static_cast<float>(i) - 1.5F);
  input.set_values(values);
  size_t element_count = 1;
  for (const uint32_t dim : dims) element_count *= dim;
  input.set_base(Bytes(element_count * dtype_bytes(dtype), 0x11));
  return input;
}

inline AdapterInput sample_input() {
  AdapterInput input;
  input.name = "german";
  input.metadata = "{\"base\": \"tiny\"}";
  input.tensors.push_back(tensor("alpha", Dtype::f32, {4, 8}, IndexCodec::gaps8, {0, 3, 9, 31}));
  input.tensors.push_back(tensor("beta", Dtype::bf16, {6, 4}, IndexCodec::blocks8,
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

enum SectionNumber : size_t { kAdapters, kTensors, kNames, kMetadata, kIndex, kValues };

inline Result<std::shared_ptr<const AdapterFile>> read(const Bytes& file) {
  return AdapterFile::from_bytes(file.data(), file.size(), "test.shb");
}

}  // namespace shira::testing
