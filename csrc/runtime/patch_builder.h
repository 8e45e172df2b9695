// Computing the new values of one tensor from its base values and the adapters that touch it (law
// I4). SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "base/result.h"
#include "kernels/kernels.h"
#include "runtime/patch.h"
#include "runtime/tensor_spec.h"

namespace shira {

/// One member's part in one tensor.
struct Touch {
  uint32_t tensor_index = 0;
  uint32_t member_index = 0;  // in the order of summation
  float scale = 1.0F;
  BoundAdapter* adapter = nullptr;
  BoundTensor* bound = nullptr;
  std::shared_ptr<const Bytes> originals;  // base values at bound->positions
  Bytes* new_originals = nullptr;          // the same, while they are still to be saved
};

/// True when the touch alone writes the file's own values.
inline bool is_exact(const Touch& touch) {
  return touch.scale == 1.0F && touch.bound->source->value_kind == ValueKind::target;
}

/// The patch of one tensor under `touch_count` members, in the order of summation. A position that
/// one member touches with a target value at scale 1 takes the target exactly; every other one is
/// base + sum, in float32, rounded once. NON_FINITE_RESULT with the flat index, OUT_OF_MEMORY.
/// REQUIRES: touch_count >= 1, all of the tensor `spec`.
Result<std::shared_ptr<const Patch>> build_patch(const kernels::KernelTable& kernels,
                                                 const TensorSpec& spec, const Touch* touches,
                                                 size_t touch_count);

}  // namespace shira
