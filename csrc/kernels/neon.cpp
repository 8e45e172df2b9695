// Kernels for 64-bit ARM: NEON, which every such CPU has.
// SPDX-License-Identifier: Apache-2.0
#if defined(__aarch64__)
#include <arm_neon.h>

#include "kernels/kernels.h"
#include "kernels/vector_math.h"

namespace shira::kernels {
namespace {

// The conversions of f16 round and keep subnormals as base/float_bits.h does.
struct Neon {
  static constexpr size_t kMaxLanes = 4;
  static constexpr size_t lanes() { return kMaxLanes; }

  static float32x4_t add(float32x4_t a, float32x4_t b) { return vaddq_f32(a, b); }
  static float32x4_t subtract(float32x4_t a, float32x4_t b) { return vsubq_f32(a, b); }
  static float32x4_t scale(float factor, float32x4_t a) { return vmulq_n_f32(a, factor); }

  static float32x4_t load(F32, const float* elements) { return vld1q_f32(elements); }
  static float32x4_t load(F16, const uint16_t* elements) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(elements)));
  }
  static float32x4_t load(Bf16, const uint16_t* elements) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(elements), 16));
  }

  static size_t store(F32, float32x4_t values, float* out) {
    vst1q_f32(out, values);
    const uint32x4_t ones = vdupq_n_u32(F32::kExponent);
    const uint32x4_t exponents = vandq_u32(vreinterpretq_u32_f32(values), ones);
    return vaddvq_u32(vshrq_n_u32(vceqq_u32(exponents, ones), 31));
  }
  static size_t store(F16, float32x4_t values, uint16_t* out) {
    return store_u16(vreinterpret_u16_f16(vcvt_f16_f32(values)), F16::kExponent, out);
  }
  static size_t store(Bf16, float32x4_t values, uint16_t* out) {  // as narrow_bf16()
    const uint32x4_t bits = vreinterpretq_u32_f32(values);
    const uint32x4_t high = vshrq_n_u32(bits, 16);
    const uint32x4_t odd = vandq_u32(high, vdupq_n_u32(1));
    const uint32x4_t up = vaddq_u32(odd, vdupq_n_u32(0x7FFF));
    const uint32x4_t rounded = vshrq_n_u32(vaddq_u32(bits, up), 16);
    const uint32x4_t quiet = vorrq_u32(high, vdupq_n_u32(0x40));
    const uint32x4_t is_number = vceqq_f32(values, values);
    return store_u16(vmovn_u32(vbslq_u32(is_number, rounded, quiet)), Bf16::kExponent, out);
  }

 private:
  static size_t store_u16(uint16x4_t elements, uint16_t exponent, uint16_t* out) {
    vst1_u16(out, elements);
    const uint16x4_t ones = vdup_n_u16(exponent);
    return vaddv_u16(vshr_n_u16(vceq_u16(vand_u16(elements, ones), ones), 15));
  }
};

uint8x16_t load(const uint8_t* elements) { return vld1q_u8(elements); }
uint16x8_t load(const uint16_t* elements) { return vld1q_u16(elements); }
uint32x4_t load(const uint32_t* elements) { return vld1q_u32(elements); }

uint8x16_t equal(uint8x16_t a, uint8x16_t b) { return vceqq_u8(a, b); }
uint16x8_t equal(uint16x8_t a, uint16x8_t b) { return vceqq_u16(a, b); }
uint32x4_t equal(uint32x4_t a, uint32x4_t b) { return vceqq_u32(a, b); }

size_t add_up(uint8x16_t lanes) { return vaddlvq_u8(lanes); }
size_t add_up(uint16x8_t lanes) { return vaddlvq_u16(lanes); }
size_t add_up(uint32x4_t lanes) { return vaddlvq_u32(lanes); }

template <typename T>
size_t count_different(const T* a, const T* b, size_t count) {
  constexpr size_t kLanes = sizeof(uint8x16_t) / sizeof(T);
  constexpr size_t kMaxSteps = UINT8_MAX;  // then a lane of 8 bits is full
  size_t equal_count = 0;
  size_t j = 0;
  while (j + kLanes <= count) {
    decltype(load(a)) sum = {};
    for (size_t step = 0; step < kMaxSteps && j + kLanes <= count; ++step, j += kLanes)
      sum -= equal(load(a + j), load(b + j));  // all ones are -1
    equal_count += add_up(sum);
  }
  size_t different_count = j - equal_count;
  for (; j < count; ++j) different_count += a[j] != b[j];
  return different_count;
}

}  // namespace

void neon_kernels(KernelTable* table) {
  table->u8.count_different = count_different<uint8_t>;
  table->u16.count_different = count_different<uint16_t>;
  table->u32.count_different = count_different<uint32_t>;
  table->f32 = VectorMath<Neon, F32>::kKernels;
  table->f16 = VectorMath<Neon, F16>::kKernels;
  table->bf16 = VectorMath<Neon, Bf16>::kKernels;
}

}  // namespace shira::kernels
#endif
