// Choosing the kernel of a dtype and index list.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/element_ops.h"

#include <cfenv>
#include <cstring>
#include <type_traits>

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

template <typename Kernels>
using element_of = typename std::decay_t<Kernels>::Element;

// Calls body(kernels that move elements of this width).
template <typename Body>
void with_moves(const kernels::KernelTable& kernels, Dtype dtype, Body body) {
  switch (dtype_bytes(dtype)) {
    case 4:
      return body(kernels.u32);
    case 2:
      return body(kernels.u16);
    default:
      return body(kernels.u8);
  }
}

// Calls body(kernels that compute with this dtype).
template <typename Body>
void with_math(const kernels::KernelTable& kernels, Dtype dtype, Body body) {
  switch (dtype) {
    case Dtype::f32:
      return body(kernels.f32);
    case Dtype::f16:
      return body(kernels.f16);
    case Dtype::bf16:
      return body(kernels.bf16);
    case Dtype::i8:
      return body(kernels.i8);
    case Dtype::i4:
      return body(kernels.i4);
  }
}

// Calls body(runs, run count, offset of their first element in the slice) for the first run, the
// runs between and the last run when the ends are clipped, else once.
template <typename Body>
void for_clipped_runs(const IndexList& list, const Slice& slice, Body body) {
  const Run* runs = list.runs.data() + slice.first_unit;
  if (slice.skip_front == 0 && slice.skip_back == 0) return body(runs, slice.unit_count, 0);
  Run first = runs[0];
  first.start += slice.skip_front;
  first.length -= slice.skip_front;
  if (slice.unit_count == 1) {
    first.length -= slice.skip_back;
    return body(&first, 1, 0);
  }
  Run last = runs[slice.unit_count - 1];
  last.length -= slice.skip_back;
  body(&first, 1, 0);
  body(runs + 1, slice.unit_count - 2, first.length);
  body(&last, 1, slice.entry_count - last.length);
}

// What a layout is asked for at a time where the list has runs: it takes entries.
constexpr size_t kLayoutEntries = 4096;

// Calls body(entries, how many, offset of the first one in the slice) for all entries of a slice,
// in the float mode that layouts count on, also on threads of a pool.
template <typename Body>
void for_entries(const IndexList& list, const Slice& slice, Body body) {
  const DefaultFloatMode float_mode;
  if (!list.is_runs()) return body(list.entries.data() + slice.first_unit, slice.unit_count, 0);
  uint32_t entries[kLayoutEntries];
  size_t used = 0;
  size_t offset = 0;
  for_clipped_runs(list, slice, [&](const Run* runs, size_t run_count, size_t /*offset*/) {
    for (size_t r = 0; r < run_count; ++r) {
      for (uint32_t i = 0; i < runs[r].length; ++i) {
        entries[used++] = runs[r].start + i;
        if (used < kLayoutEntries) continue;
        body(entries, used, offset);
        offset += used;
        used = 0;
      }
    }
  });
  if (used > 0) body(entries, used, offset);
}

}  // namespace

void gather(const kernels::KernelTable& kernels, const TensorSpec& tensor, const IndexList& list,
            const Slice& slice, uint8_t* out) {
  if (tensor.layout) {
    return for_entries(list, slice, [&](const uint32_t* entries, size_t count, size_t offset) {
      tensor.layout->gather(entries, count, out + offset * dtype_bytes(tensor.dtype));
    });
  }
  with_moves(kernels, tensor.dtype, [&](const auto& moves) {
    using T = element_of<decltype(moves)>;
    const T* weights = as<T>(tensor.data);
    if (!list.is_runs())
      return moves.gather(weights, list.entries.data() + slice.first_unit, slice.unit_count,
                          as<T>(out));
    for_clipped_runs(list, slice, [&](const Run* runs, size_t run_count, size_t offset) {
      moves.gather_runs(weights, runs, run_count, as<T>(out) + offset);
    });
  });
}

void store(const kernels::KernelTable& kernels, const TensorSpec& tensor, const IndexList& list,
           const Slice& slice, const uint8_t* values) {
  if (tensor.layout) {
    return for_entries(list, slice, [&](const uint32_t* entries, size_t count, size_t offset) {
      tensor.layout->store(entries, count, values + offset * dtype_bytes(tensor.dtype));
    });
  }
  with_moves(kernels, tensor.dtype, [&](const auto& moves) {
    using T = element_of<decltype(moves)>;
    T* weights = as<T>(tensor.data);
    if (!list.is_runs())
      return moves.store(weights, list.entries.data() + slice.first_unit, slice.unit_count,
                         as<T>(values));
    for_clipped_runs(list, slice, [&](const Run* runs, size_t run_count, size_t offset) {
      moves.store_runs(weights, runs, run_count, as<T>(values) + offset);
    });
  });
}

void swap(const kernels::KernelTable& kernels, const TensorSpec& tensor, const IndexList& list,
          const Slice& slice, const uint8_t* values, uint8_t* out) {
  if (tensor.layout) {
    return for_entries(list, slice, [&](const uint32_t* entries, size_t count, size_t offset) {
      offset *= dtype_bytes(tensor.dtype);
      tensor.layout->swap(entries, count, values + offset, out + offset);
    });
  }
  with_moves(kernels, tensor.dtype, [&](const auto& moves) {
    using T = element_of<decltype(moves)>;
    T* weights = as<T>(tensor.data);
    if (!list.is_runs())
      return moves.swap(weights, list.entries.data() + slice.first_unit, slice.unit_count,
                        as<T>(values), as<T>(out));
    for_clipped_runs(list, slice, [&](const Run* runs, size_t run_count, size_t offset) {
      moves.swap_runs(weights, runs, run_count, as<T>(values) + offset, as<T>(out) + offset);
    });
  });
}

void read_elements(const TensorSpec& tensor, uint64_t offset_bytes, uint64_t size_bytes,
                   uint8_t* out) {
  if (!tensor.layout) {
    std::memcpy(out, tensor.data + offset_bytes, size_bytes);
    return;
  }
  const DefaultFloatMode float_mode;
  const size_t element_bytes = dtype_bytes(tensor.dtype);
  tensor.layout->read(offset_bytes / element_bytes, size_bytes / element_bytes, out);
}

uint64_t count_different(const kernels::KernelTable& kernels, Dtype dtype, const uint8_t* a,
                         const uint8_t* b, uint64_t count) {
  uint64_t different_count = 0;
  with_moves(kernels, dtype, [&](const auto& moves) {
    using T = element_of<decltype(moves)>;
    different_count = moves.count_different(as<T>(a), as<T>(b), count);
  });
  return different_count;
}

Slice whole(const IndexList& list) {
  Slice slice;
  slice.unit_count = list.is_runs() ? list.runs.size() : list.entries.size();
  slice.entry_count = list.entry_count;
  return slice;
}

void contribute(const kernels::KernelTable& kernels, const AdapterTensor& source, float scale,
                const uint8_t* base, float* out) {
  const auto count = static_cast<size_t>(source.nnz);
  with_math(kernels, source.value_dtype, [&](const auto& math) {
    using E = element_of<decltype(math)>;
    const E* values = as<E>(source.values);
    if (source.value_kind == ValueKind::target)
      return math.contribute_target(values, as<E>(base), scale, count, out);
    math.contribute_delta(values, scale, count, out);
  });
}

uint64_t add_round(const kernels::KernelTable& kernels, Dtype dtype, const uint8_t* base,
                   const float* contribution, uint64_t count, uint8_t* out) {
  uint64_t non_finite_count = 0;
  with_math(kernels, dtype, [&](const auto& math) {
    using E = element_of<decltype(math)>;
    non_finite_count = math.add_round(as<E>(base), contribution, count, as<E>(out));
  });
  return non_finite_count;
}

uint64_t scale_values(const kernels::KernelTable& kernels, const AdapterTensor& source, float scale,
                      const uint8_t* base, uint8_t* out) {
  uint64_t non_finite_count = 0;
  const auto count = static_cast<size_t>(source.nnz);
  with_math(kernels, source.value_dtype, [&](const auto& math) {
    using E = element_of<decltype(math)>;
    const auto scale_all =
        source.value_kind == ValueKind::target ? math.scale_target : math.scale_delta;
    non_finite_count = scale_all(as<E>(source.values), as<E>(base), scale, count, as<E>(out));
  });
  return non_finite_count;
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
