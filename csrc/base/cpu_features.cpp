// CPU features by cpuid and by the kernel's capability bits.
// SPDX-License-Identifier: Apache-2.0
#include "base/cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace shira {

#if defined(__x86_64__)

namespace {

// __builtin_cpu_supports() of some compilers does not know it.
bool has_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

}  // namespace

// These ask the operating system, too: registers that it does not save cannot be used.
bool cpu_has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt") && has_f16c();
}

bool cpu_has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

#else

bool cpu_has_avx2() { return false; }
bool cpu_has_avx512() { return false; }

#endif

#if defined(__aarch64__) && defined(__linux__)
bool cpu_has_sve() { return (getauxval(AT_HWCAP) & HWCAP_SVE) != 0; }
#else
bool cpu_has_sve() { return false; }
#endif

}  // namespace shira
