// Computing patches: one adapter as it is, one adapter scaled, several adapters stacked.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/patch_builder.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "runtime/element_ops.h"
#include "runtime/index_set.h"

namespace shira {
namespace {

constexpr uint8_t kManyTouches = 2;

// The sum of the members' contributions at every position of a stack.
struct Sums {
  Array<float> sum;
  Array<uint8_t> touch_count;  // 0, 1 or kManyTouches
};

// Adds one member. The first contribution at a position is taken as it is: 0 + -0.0 would lose the
// sign.
void accumulate(const IndexList& stack, const Touch& touch, const Array<float>& contribution,
                Sums* sums) {
  walk(*touch.bound->positions->list, stack, [&](Side side, const Piece& piece) {
    if (side != Side::both) return;
    for (uint32_t i = 0; i < piece.length; ++i) {
      float& sum = sums->sum[piece.offset_b + i];
      uint8_t& touch_count = sums->touch_count[piece.offset_b + i];
      const float value = contribution[piece.offset_a + i];
      sum = touch_count == 0 ? value : sum + value;
      touch_count = touch_count == 0 ? 1 : kManyTouches;
    }
  });
}

// Where nobody else touches, the target replaces the sum, whose rounding could differ.
void take_targets(const IndexList& stack, const Touch& touch, const Sums& sums,
                  size_t element_bytes, uint8_t* values) {
  walk(*touch.bound->positions->list, stack, [&](Side side, const Piece& piece) {
    if (side != Side::both) return;
    for (uint32_t i = 0; i < piece.length; ++i) {
      if (sums.touch_count[piece.offset_b + i] != 1) continue;
      std::memcpy(values + (piece.offset_b + i) * element_bytes,
                  touch.bound->source->values + (piece.offset_a + i) * element_bytes,
                  element_bytes);
    }
  });
}

Result<Array<float>> contribution_of(const kernels::KernelTable& kernels, const Touch& touch) {
  SHIRA_ASSIGN(Array<float> contribution, Array<float>::make(touch.bound->source->nnz));
  contribute(kernels, *touch.bound->source, touch.scale, touch.originals->data(),
             contribution.data());
  return contribution;
}

// Codes do not show that their sum was not finite, so that it is looked at again.
Result<void> check_finite(const kernels::KernelTable& kernels, const TensorSpec& spec,
                          const Patch& patch, const float* sum, const uint8_t* values) {
  const size_t element_bytes = dtype_bytes(spec.dtype);
  for (uint64_t i = 0; i < patch.positions->count(); ++i) {
    uint8_t code = 0;
    if (is_float(spec.dtype)
            ? is_finite(spec.dtype, values + i * element_bytes)
            : add_round(kernels, spec.dtype, patch.originals->data() + i, sum + i, 1, &code) == 0)
      continue;
    return Error{Status::NON_FINITE_RESULT,
                 "the new value of flat index " +
                     std::to_string(position_at(*patch.positions->list, i)) +
                     " is not a finite number in " + dtype_name(spec.dtype),
                 {},
                 spec.name};
  }
  return {};
}

// base + sum, where the sums stand in the order of `patch`'s positions.
Result<Bytes> add_sums(const kernels::KernelTable& kernels, const TensorSpec& spec,
                       const Patch& patch, const Array<float>& sum, uint64_t* non_finite_count) {
  SHIRA_ASSIGN(Bytes values, Bytes::make(patch.originals->size()));
  *non_finite_count = add_round(kernels, spec.dtype, patch.originals->data(), sum.data(),
                                patch.positions->count(), values.data());
  return values;
}

// The values of a member that is alone; deltas may be of another dtype than the tensor.
Result<Bytes> scaled_values(const kernels::KernelTable& kernels, const TensorSpec& spec,
                            const Touch& touch, const Patch& patch, uint64_t* non_finite_count) {
  if (touch.bound->source->value_dtype != spec.dtype) {
    SHIRA_ASSIGN(const Array<float> contribution, contribution_of(kernels, touch));
    return add_sums(kernels, spec, patch, contribution, non_finite_count);
  }
  SHIRA_ASSIGN(Bytes values, Bytes::make(patch.originals->size()));
  *non_finite_count = scale_values(kernels, *touch.bound->source, touch.scale,
                                   patch.originals->data(), values.data());
  return values;
}

void own_values(Patch* patch, Bytes values) {
  auto owner = std::make_shared<Bytes>(std::move(values));
  patch->values = std::shared_ptr<const uint8_t>(owner, owner->data());
}

Result<void> fill_single(const kernels::KernelTable& kernels, const TensorSpec& spec,
                         const Touch& touch, Patch* patch) {
  patch->positions = touch.bound->positions;
  patch->originals = touch.originals;
  if (is_exact(touch)) {
    patch->values =
        std::shared_ptr<const uint8_t>(touch.adapter->source, touch.bound->source->values);
    return {};
  }
  uint64_t non_finite_count = 0;
  SHIRA_ASSIGN(Bytes values, scaled_values(kernels, spec, touch, *patch, &non_finite_count));
  if (non_finite_count > 0) {
    SHIRA_ASSIGN(const Array<float> contribution, contribution_of(kernels, touch));
    SHIRA_TRY(check_finite(kernels, spec, *patch, contribution.data(), values.data()));
  }
  own_values(patch, std::move(values));
  return {};
}

// The positions that the members touch together, and the base values there.
Result<void> unite_touches(const TensorSpec& spec, const Touch* touches, size_t touch_count,
                           Patch* patch) {
  const auto has_first_mask = [&](const Touch& touch) {
    return touch.bound->positions == touches[0].bound->positions;
  };
  if (std::all_of(touches, touches + touch_count, has_first_mask)) {
    patch->positions = touches[0].bound->positions;
    patch->originals = touches[0].originals;
    return {};
  }
  const auto of = [&](size_t i) -> const Positions& { return *touches[i].bound->positions; };
  SHIRA_ASSIGN(IndexList stack, unite(*of(0).list, *of(1).list));
  SHIRA_ASSIGN(PageSet pages, PageSet::unite(of(0).pages, of(1).pages));
  for (size_t i = 2; i < touch_count; ++i) {
    SHIRA_ASSIGN(stack, unite(stack, *of(i).list));
    SHIRA_ASSIGN(pages, PageSet::unite(pages, of(i).pages));
  }
  SHIRA_ASSIGN(patch->positions,
               Positions::make(std::make_shared<IndexList>(std::move(stack)), std::move(pages)));
  const size_t element_bytes = dtype_bytes(spec.dtype);
  SHIRA_ASSIGN(Bytes originals, Bytes::make(patch->positions->count() * element_bytes));
  for (size_t i = 0; i < touch_count; ++i) {
    copy_common(*of(i).list, touches[i].originals->data(), *patch->positions->list,
                originals.data(), element_bytes);
  }
  patch->originals = std::make_shared<Bytes>(std::move(originals));
  return {};
}

Result<void> fill_stack(const kernels::KernelTable& kernels, const TensorSpec& spec,
                        const Touch* touches, size_t touch_count, Patch* patch) {
  SHIRA_TRY(unite_touches(spec, touches, touch_count, patch));
  const IndexList& list = *patch->positions->list;
  Sums sums;
  SHIRA_ASSIGN(sums.sum, Array<float>::make(list.entry_count));
  SHIRA_ASSIGN(sums.touch_count, Array<uint8_t>::make(list.entry_count));
  std::memset(sums.touch_count.data(), 0, sums.touch_count.size());
  for (size_t i = 0; i < touch_count; ++i) {
    SHIRA_ASSIGN(const Array<float> contribution, contribution_of(kernels, touches[i]));
    accumulate(list, touches[i], contribution, &sums);
  }

  uint64_t non_finite_count = 0;
  SHIRA_ASSIGN(Bytes values, add_sums(kernels, spec, *patch, sums.sum, &non_finite_count));
  for (size_t i = 0; i < touch_count; ++i) {
    if (is_exact(touches[i]))
      take_targets(list, touches[i], sums, dtype_bytes(spec.dtype), values.data());
  }
  // A target may have replaced the sum that was not finite.
  if (non_finite_count > 0)
    SHIRA_TRY(check_finite(kernels, spec, *patch, sums.sum.data(), values.data()));
  own_values(patch, std::move(values));
  return {};
}

}  // namespace

Result<std::shared_ptr<const Patch>> build_patch(const kernels::KernelTable& kernels,
                                                 const TensorSpec& spec, const Touch* touches,
                                                 size_t touch_count) {
  if (touch_count == 1 && is_exact(touches[0]) && touches[0].bound->exact) {
    const std::shared_ptr<const Patch>& exact = touches[0].bound->exact;
    if (!exact->originals) exact->originals = touches[0].originals;
    return exact;
  }
  const DefaultFloatMode float_mode;
  auto patch = std::make_shared<Patch>();
  patch->tensor_index = touches[0].tensor_index;
  patch->tensor_name = spec.name;
  patch->dtype = spec.dtype;
  if (touch_count == 1) {
    SHIRA_TRY(fill_single(kernels, spec, touches[0], patch.get()));
  } else {
    SHIRA_TRY(fill_stack(kernels, spec, touches, touch_count, patch.get()));
  }
  return std::shared_ptr<const Patch>(std::move(patch));
}

}  // namespace shira
