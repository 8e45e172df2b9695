// Choosing the kernel of a dtype and index list.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/element_ops.h"

#include <cfenv>
#include <cstring>

namespace shira {
namespace {

template <typename T>
const T* as(const uint8_t* bytes) {
  return reinterpret_cast<const T*>(bytes);
}

template <typename T>
T* as(uint8_t* bytes) {
  return reinterpret_cast<T*>(bytes);
}

template <typename T>
uint64_t scatter_elements(kernels::Scatter<T> scatter_entries, kernels::ScatterRuns<T> scatter_runs,
                          const TensorSpec& tensor, const IndexList& list, const Slice& slice,
                          const uint8_t* values) {
  T* weights = as<T>(tensor.data);
  const T* first_value = as<T>(values) + slice.first_entry;
  if (list.is_runs())
    return scatter_runs(weights, list.runs.data() + slice.first_unit, slice.unit_count,
                        first_value);
  return scatter_entries(weights, list.entries.data() + slice.first_unit, slice.unit_count,
                         first_value);
}

}  // namespace

void gather(const kernels::KernelTable& kernels, const TensorSpec& tensor, const IndexList& list,
            uint8_t* out) {
  if (dtype_bytes(tensor.dtype) == 4) {
    if (list.is_runs()) {
      kernels.gather_runs_u32(as<uint32_t>(tensor.data), list.runs.data(), list.runs.size(),
                              as<uint32_t>(out));
    } else {
      kernels.gather_u32(as<uint32_t>(tensor.data), list.entries.data(), list.entries.size(),
                         as<uint32_t>(out));
    }
  } else if (list.is_runs()) {
    kernels.gather_runs_u16(as<uint16_t>(tensor.data), list.runs.data(), list.runs.size(),
                            as<uint16_t>(out));
  } else {
    kernels.gather_u16(as<uint16_t>(tensor.data), list.entries.data(), list.entries.size(),
                       as<uint16_t>(out));
  }
}

uint64_t scatter(const kernels::KernelTable& kernels, const TensorSpec& tensor,
                 const IndexList& list, const Slice& slice, const uint8_t* values) {
  if (dtype_bytes(tensor.dtype) == 4) {
    return scatter_elements<uint32_t>(kernels.scatter_u32, kernels.scatter_runs_u32, tensor, list,
                                      slice, values);
  }
  return scatter_elements<uint16_t>(kernels.scatter_u16, kernels.scatter_runs_u16, tensor, list,
                                    slice, values);
}

void scatter_all(const kernels::KernelTable& kernels, const TensorSpec& tensor,
                 const Positions& positions, const uint8_t* values) {
  for (size_t i = 0; i < positions.slices.size(); ++i)
    scatter(kernels, tensor, *positions.list, positions.slices[i], values);
}

void contribute(const kernels::KernelTable& kernels, const AdapterTensor& source, float scale,
                const uint8_t* base, float* out) {
  const uint8_t* values = source.values;
  const auto count = static_cast<size_t>(source.nnz);
  if (source.value_kind == ValueKind::target) {
    switch (source.value_dtype) {
      case Dtype::f32:
        return kernels.contribute_target_f32(as<float>(values), as<float>(base), scale, count, out);
      case Dtype::f16:
        return kernels.contribute_target_f16(as<uint16_t>(values), as<uint16_t>(base), scale, count,
                                             out);
      case Dtype::bf16:
        return kernels.contribute_target_bf16(as<uint16_t>(values), as<uint16_t>(base), scale,
                                              count, out);
      default:
        return;  // no live dtype
    }
  }
  switch (source.value_dtype) {
    case Dtype::f32:
      return kernels.contribute_delta_f32(as<float>(values), scale, count, out);
    case Dtype::f16:
      return kernels.contribute_delta_f16(as<uint16_t>(values), scale, count, out);
    case Dtype::bf16:
      return kernels.contribute_delta_bf16(as<uint16_t>(values), scale, count, out);
    default:
      return;
  }
}

uint64_t add_round(const kernels::KernelTable& kernels, Dtype dtype, const uint8_t* base,
                   const float* contribution, uint64_t count, uint8_t* out) {
  switch (dtype) {
    case Dtype::f32:
      return kernels.add_round_f32(as<float>(base), contribution, count, as<float>(out));
    case Dtype::f16:
      return kernels.add_round_f16(as<uint16_t>(base), contribution, count, as<uint16_t>(out));
    case Dtype::bf16:
      return kernels.add_round_bf16(as<uint16_t>(base), contribution, count, as<uint16_t>(out));
    default:
      return 0;
  }
}

bool is_finite(Dtype dtype, const uint8_t* element) {
  uint32_t bits = 0;
  std::memcpy(&bits, element, dtype_bytes(dtype));
  const uint32_t exponent = dtype == Dtype::f32   ? 0x7F800000U
                            : dtype == Dtype::f16 ? 0x7C00U
                                                  : 0x7F80U;
  return (bits & exponent) != exponent;
}

static_assert(sizeof(std::fenv_t) <= 64 && alignof(std::fenv_t) <= 16,
              "DefaultFloatMode must hold a fenv_t");

DefaultFloatMode::DefaultFloatMode() {
  std::fegetenv(reinterpret_cast<std::fenv_t*>(saved_));
  std::fesetenv(FE_DFL_ENV);
}

DefaultFloatMode::~DefaultFloatMode() { std::fesetenv(reinterpret_cast<std::fenv_t*>(saved_)); }

}  // namespace shira
