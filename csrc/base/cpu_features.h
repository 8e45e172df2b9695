// What the CPU and the operating system let a program use, beyond what it was compiled for.
// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace shira {

/// False on a CPU of another family.
bool cpu_has_avx2();    // with F16C and POPCNT
bool cpu_has_avx512();  // F, BW, DQ and VL
bool cpu_has_sve();

}  // namespace shira
