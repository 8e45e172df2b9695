// Names of the element types and their conversions as ordinary functions.
// SPDX-License-Identifier: Apache-2.0
#include "base/dtype.h"

#include "base/float_bits.h"

namespace shira {

const char* dtype_name(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32:
      return "f32";
    case Dtype::f16:
      return "f16";
    case Dtype::bf16:
      return "bf16";
    case Dtype::i8:
      return "int8";
    case Dtype::i4:
      return "int4";
  }
  return "unknown";
}

float f16_to_f32(uint16_t bits) { return widen_f16(bits); }
float bf16_to_f32(uint16_t bits) { return widen_bf16(bits); }

}  // namespace shira
