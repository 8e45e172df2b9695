// The kernels by dtype and by shape of the index list: what the plan and the store of a switch
// call. SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "format/adapter_file.h"
#include "format/index_list.h"
#include "kernels/kernels.h"
#include "runtime/positions.h"
#include "runtime/tensor_spec.h"

namespace shira {

/// Reads the live values at `list` into `out`: (entry_count,) elements of the tensor's dtype.
void gather(const kernels::KernelTable& kernels, const TensorSpec& tensor, const IndexList& list,
            uint8_t* out);

/// Writes `values` (those of the whole list) to the live positions of one slice; returns how many
/// elements changed.
uint64_t scatter(const kernels::KernelTable& kernels, const TensorSpec& tensor,
                 const IndexList& list, const Slice& slice, const uint8_t* values);

/// The same for every slice.
void scatter_all(const kernels::KernelTable& kernels, const TensorSpec& tensor,
                 const Positions& positions, const uint8_t* values);

/// What an adapter's entries add to the base at `scale`, in float32 (FORMAT.md section 11). `base`
/// and `out`: (nnz,).
void contribute(const kernels::KernelTable& kernels, const AdapterTensor& source, float scale,
                const uint8_t* base, float* out);

/// out[j] = base[j] + contribution[j], rounded once to `dtype`; returns how many results are not
/// finite.
uint64_t add_round(const kernels::KernelTable& kernels, Dtype dtype, const uint8_t* base,
                   const float* contribution, uint64_t count, uint8_t* out);

/// True when the element's exponent is not all ones.
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
