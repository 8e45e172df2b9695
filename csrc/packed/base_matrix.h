// BaseMatrix: a weight matrix as the program's file holds it, which its packing must agree with.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "base/dtype.h"

namespace shira {

/// Views of the file's bytes, of any alignment; whoever fills it in has checked that they are
/// there.
struct BaseMatrix {
  std::string name;  // of the tensor, for messages
  uint32_t row_count = 0;
  uint32_t column_count = 0;
  Dtype dtype = Dtype::f32;  // f32, f16, i8 or i4
  /// (rows, columns). i4: (rows, ceil(columns / 2)) bytes, the even column in the low nibble.
  const uint8_t* codes = nullptr;
  uint8_t code_bias = 8;  // i4: what was added to a code to store it, 0 (two's complement) or 8
  /// Of integers: (rows,) f32, or (rows, columns / group_length) bf16 with groups.
  const uint8_t* scales = nullptr;
  uint32_t group_length = 0;
  const uint8_t* bias =
      nullptr;  // (rows,) f32, or f16 beside f16 weights; null where there is none
};

}  // namespace shira
