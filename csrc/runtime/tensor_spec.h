// TensorSpec: one live weight tensor as the program is told about it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "runtime/element_layout.h"
#include "runtime/region.h"

namespace shira {

/// Row-major. Its elements lie one behind the other, unless it has a layout.
struct TensorSpec {
  std::string name;  // FQN
  Dtype dtype = Dtype::f32;
  std::vector<uint32_t> dims;
  uint8_t* data = nullptr;         // aligned to the element size
  std::shared_ptr<Region> region;  // keeps or checks the memory
  /// Name of another tensor with the same bytes; patching is then refused.
  std::string shares_storage_with;
  std::shared_ptr<const ElementLayout> layout{};  // null: none
};

/// What the tensor's elements take one behind the other, in adapter files and in our own arrays.
/// REQUIRES: the tensor was registered, so that it fits.
uint64_t logical_bytes(const TensorSpec& spec);

/// What the tensor takes in memory, from `data` on.
uint64_t live_bytes(const TensorSpec& spec);

/// "[384, 1536]"
std::string shape_text(const std::vector<uint32_t>& dims);

}  // namespace shira
