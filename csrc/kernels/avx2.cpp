// Kernels for x86-64 with AVX2 and F16C.
// SPDX-License-Identifier: Apache-2.0
#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/kernels.h"
#include "kernels/vector_math.h"

namespace shira::kernels {
namespace {

// F16C converts as base/float_bits.h does, subnormals included, in every mode that an application
// may have switched on; of a NaN it changes the payload.
struct Avx2 {
  static constexpr size_t kMaxLanes = 8;
  static constexpr size_t lanes() { return kMaxLanes; }

  static __m256 add(__m256 a, __m256 b) { return _mm256_add_ps(a, b); }
  static __m256 subtract(__m256 a, __m256 b) { return _mm256_sub_ps(a, b); }
  static __m256 scale(float factor, __m256 a) { return _mm256_mul_ps(_mm256_set1_ps(factor), a); }

  static __m256 load(F32, const float* elements) { return _mm256_loadu_ps(elements); }
  static __m256 load(F16, const uint16_t* elements) { return _mm256_cvtph_ps(load_u16(elements)); }
  static __m256 load(Bf16, const uint16_t* elements) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_u16(elements)), 16));
  }

  static size_t store(F32, __m256 values, float* out) {
    _mm256_storeu_ps(out, values);
    const __m256i ones = _mm256_set1_epi32(F32::kExponent);
    const __m256i exponents = _mm256_and_si256(_mm256_castps_si256(values), ones);
    const __m256i found = _mm256_cmpeq_epi32(exponents, ones);
    return popcount(_mm256_movemask_ps(_mm256_castsi256_ps(found)));
  }
  static size_t store(F16, __m256 values, uint16_t* out) {
    return store_u16(_mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT), F16::kExponent, out);
  }
  static size_t store(Bf16, __m256 values, uint16_t* out) {  // as narrow_bf16()
    const __m256i bits = _mm256_castps_si256(values);
    const __m256i high = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, up), 16);
    const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(values, values, _CMP_UNORD_Q));
    const __m256i narrow = _mm256_blendv_epi8(rounded, quiet, is_nan);
    const __m128i packed =
        _mm_packus_epi32(_mm256_castsi256_si128(narrow), _mm256_extracti128_si256(narrow, 1));
    return store_u16(packed, Bf16::kExponent, out);
  }

 private:
  static size_t popcount(int bits) {
    return static_cast<size_t>(_mm_popcnt_u32(static_cast<unsigned>(bits)));
  }
  static __m128i load_u16(const uint16_t* elements) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(elements));
  }
  static size_t store_u16(__m128i elements, uint16_t exponent, uint16_t* out) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), elements);
    const __m128i ones = _mm_set1_epi16(static_cast<int16_t>(exponent));
    const __m128i found = _mm_cmpeq_epi16(_mm_and_si128(elements, ones), ones);
    return popcount(_mm_movemask_epi8(found)) / sizeof(uint16_t);
  }
};

__m256i compare(__m256i a, __m256i b, uint8_t) { return _mm256_cmpeq_epi8(a, b); }
__m256i compare(__m256i a, __m256i b, uint16_t) { return _mm256_cmpeq_epi16(a, b); }
__m256i compare(__m256i a, __m256i b, uint32_t) { return _mm256_cmpeq_epi32(a, b); }

template <typename T>
size_t count_different(const T* a, const T* b, size_t count) {
  constexpr size_t kLanes = sizeof(__m256i) / sizeof(T);
  size_t equal_bytes = 0;
  size_t j = 0;
  for (; j + kLanes <= count; j += kLanes) {
    const __m256i left = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a + j));
    const __m256i right = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + j));
    const int found = _mm256_movemask_epi8(compare(left, right, T{}));
    equal_bytes += static_cast<size_t>(_mm_popcnt_u32(static_cast<unsigned>(found)));
  }
  size_t different_count = j - equal_bytes / sizeof(T);
  for (; j < count; ++j) different_count += a[j] != b[j];
  return different_count;
}

}  // namespace

void avx2_kernels(KernelTable* table) {
  table->u8.count_different = count_different<uint8_t>;
  table->u16.count_different = count_different<uint16_t>;
  table->u32.count_different = count_different<uint32_t>;
  table->f32 = VectorMath<Avx2, F32>::kKernels;
  table->f16 = VectorMath<Avx2, F16>::kKernels;
  table->bf16 = VectorMath<Avx2, Bf16>::kKernels;
}

}  // namespace shira::kernels
#endif
