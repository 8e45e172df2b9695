// Kernels for 64-bit ARM with SVE, for every vector length.
// SPDX-License-Identifier: Apache-2.0
#if defined(__aarch64__)
#include <arm_sve.h>

#include "kernels/kernels.h"
#include "kernels/vector_math.h"

namespace shira::kernels {
namespace {

// The conversions of f16 round and keep subnormals as base/float_bits.h does. A 16-bit element has
// the low half of a 32-bit lane.
struct Sve {
  static constexpr size_t kMaxLanes = 64;  // of 2,048 bits, the longest that the architecture has
  static size_t lanes() { return svcntw(); }

  static svfloat32_t add(svfloat32_t a, svfloat32_t b) { return svadd_f32_x(all(), a, b); }
  static svfloat32_t subtract(svfloat32_t a, svfloat32_t b) { return svsub_f32_x(all(), a, b); }
  static svfloat32_t scale(float factor, svfloat32_t a) { return svmul_n_f32_x(all(), a, factor); }

  static svfloat32_t load(F32, const float* elements) { return svld1_f32(all(), elements); }
  static svfloat32_t load(F16, const uint16_t* elements) {
    return svcvt_f32_f16_x(all(), svreinterpret_f16_u32(svld1uh_u32(all(), elements)));
  }
  static svfloat32_t load(Bf16, const uint16_t* elements) {
    return svreinterpret_f32_u32(svlsl_n_u32_x(all(), svld1uh_u32(all(), elements), 16));
  }

  static size_t store(F32, svfloat32_t values, float* out) {
    svst1_f32(all(), out, values);
    return count_all_ones(svreinterpret_u32_f32(values), F32::kExponent);
  }
  static size_t store(F16, svfloat32_t values, uint16_t* out) {
    return store_u16(svreinterpret_u32_f16(svcvt_f16_f32_x(all(), values)), F16::kExponent, out);
  }
  static size_t store(Bf16, svfloat32_t values, uint16_t* out) {  // as narrow_bf16()
    const svuint32_t bits = svreinterpret_u32_f32(values);
    const svuint32_t high = svlsr_n_u32_x(all(), bits, 16);
    const svuint32_t up = svadd_n_u32_x(all(), svand_n_u32_x(all(), high, 1), 0x7FFF);
    const svuint32_t rounded = svlsr_n_u32_x(all(), svadd_u32_x(all(), bits, up), 16);
    const svbool_t is_nan = svcmpuo_f32(all(), values, values);
    return store_u16(svsel_u32(is_nan, svorr_n_u32_x(all(), high, 0x40), rounded), Bf16::kExponent,
                     out);
  }

 private:
  static svbool_t all() { return svptrue_b32(); }
  static size_t count_all_ones(svuint32_t bits, uint32_t exponent) {
    return svcntp_b32(all(), svcmpeq_n_u32(all(), svand_n_u32_x(all(), bits, exponent), exponent));
  }
  static size_t store_u16(svuint32_t elements, uint16_t exponent, uint16_t* out) {
    svst1h_u32(all(), out, elements);
    return count_all_ones(elements, exponent);
  }
};

size_t count_different_u8(const uint8_t* a, const uint8_t* b, size_t count) {
  size_t different_count = 0;
  for (size_t j = 0; j < count; j += svcntb()) {
    const svbool_t part = svwhilelt_b8_u64(j, count);
    different_count +=
        svcntp_b8(part, svcmpne_u8(part, svld1_u8(part, a + j), svld1_u8(part, b + j)));
  }
  return different_count;
}

size_t count_different_u16(const uint16_t* a, const uint16_t* b, size_t count) {
  size_t different_count = 0;
  for (size_t j = 0; j < count; j += svcnth()) {
    const svbool_t part = svwhilelt_b16_u64(j, count);
    different_count +=
        svcntp_b16(part, svcmpne_u16(part, svld1_u16(part, a + j), svld1_u16(part, b + j)));
  }
  return different_count;
}

size_t count_different_u32(const uint32_t* a, const uint32_t* b, size_t count) {
  size_t different_count = 0;
  for (size_t j = 0; j < count; j += svcntw()) {
    const svbool_t part = svwhilelt_b32_u64(j, count);
    different_count +=
        svcntp_b32(part, svcmpne_u32(part, svld1_u32(part, a + j), svld1_u32(part, b + j)));
  }
  return different_count;
}

}  // namespace

void sve_kernels(KernelTable* table) {
  table->u8.count_different = count_different_u8;
  table->u16.count_different = count_different_u16;
  table->u32.count_different = count_different_u32;
  table->f32 = VectorMath<Sve, F32>::kKernels;
  table->f16 = VectorMath<Sve, F16>::kKernels;
  table->bf16 = VectorMath<Sve, Bf16>::kKernels;
}

}  // namespace shira::kernels
#endif
