// The kernels by dtype and by shape of the index list: what the plan and the store of a switch
// call.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "format/adapter_file.h"
#include "format/index_list.h"
#include "kernels/kernels.h"
#include "runtime/positions.h"
#include "runtime/tensor_spec.h"

namespace shira {

// `values` and `out` of a slice: (slice.entry_count,) elements of the tensor's dtype, the first one
// for the slice's first entry.

/// Reads the live values at a slice into `out`.
void gather(const kernels::KernelTable& kernels, const TensorSpec& tensor, const IndexList& list,
            const Slice& slice, uint8_t* out);

/// Writes `values` to the live positions of a slice, without reading what was there.
void store(const kernels::KernelTable& kernels, const TensorSpec& tensor, const IndexList& list,
           const Slice& slice, const uint8_t* values);

/// Reads the live values at a slice into `out` and writes `values` in their place.
void swap(const kernels::KernelTable& kernels, const TensorSpec& tensor, const IndexList& list,
          const Slice& slice, const uint8_t* values, uint8_t* out);

/// Copies elements as they would lie one behind the other: `size_bytes` of them, from
/// `offset_bytes` on. REQUIRES: whole elements.
void read_elements(const TensorSpec& tensor, uint64_t offset_bytes, uint64_t size_bytes,
                   uint8_t* out);

/// How many of `count` elements differ in their bits.
uint64_t count_different(const kernels::KernelTable& kernels, Dtype dtype, const uint8_t* a,
                         const uint8_t* b, uint64_t count);

/// The whole list as one slice.
Slice whole(const IndexList& list);

/// What an adapter's entries add to the base at `scale`, in float32 (FORMAT.md section 11). `base`
/// and `out`: (nnz,).
void contribute(const kernels::KernelTable& kernels, const AdapterTensor& source, float scale,
                const uint8_t* base, float* out);

/// out[j] = base[j] + contribution[j], rounded once to `dtype` (integers: into its range, too);
/// returns how many sums are not finite.
uint64_t add_round(const kernels::KernelTable& kernels, Dtype dtype, const uint8_t* base,
                   const float* contribution, uint64_t count, uint8_t* out);

/// contribute() and add_round() in one pass, with the same results: the new values of an adapter
/// that is alone at `scale`. `base` and `out`: (nnz,); returns how many results are not finite.
uint64_t scale_values(const kernels::KernelTable& kernels, const AdapterTensor& source, float scale,
                      const uint8_t* base, uint8_t* out);

/// False for infinities and NaN. REQUIRES: is_float(dtype).
bool is_finite(Dtype dtype, const uint8_t* element);

/// While it lives, this thread rounds to nearest and keeps subnormals, whatever the application has
/// set: weights must not depend on the mode of the thread that switches (law I4).
class DefaultFloatMode {
 public:
  DefaultFloatMode();
  ~DefaultFloatMode();
  DefaultFloatMode(const DefaultFloatMode&) = delete;
  DefaultFloatMode& operator=(const DefaultFloatMode&) = delete;

 private:
  alignas(16) unsigned char saved_[64];  // a fenv_t
};

}  // namespace shira
