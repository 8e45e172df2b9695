// Kernels for x86-64 with AVX-512 (F, BW, DQ, VL).
// SPDX-License-Identifier: Apache-2.0
#if defined(__x86_64__)
#if !defined(__clang__)
// GCC up to version 12 warns of the undefined vectors inside its own intrinsics.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "kernels/kernels.h"
#include "kernels/moves.h"
#include "kernels/vector_math.h"

namespace shira::kernels {
namespace {

template <typename Mask>
size_t popcount(Mask mask) {
  return static_cast<size_t>(__builtin_popcountll(mask));
}

// Converts f16 as base/float_bits.h does, see avx2.cpp. The instructions for bf16 take subnormals
// for zero: integers instead.
struct Avx512 {
  static constexpr size_t kMaxLanes = 16;
  static constexpr size_t lanes() { return kMaxLanes; }

  static __m512 add(__m512 a, __m512 b) { return _mm512_add_ps(a, b); }
  static __m512 subtract(__m512 a, __m512 b) { return _mm512_sub_ps(a, b); }
  static __m512 scale(float factor, __m512 a) { return _mm512_mul_ps(_mm512_set1_ps(factor), a); }

  static __m512 load(F32, const float* elements) { return _mm512_loadu_ps(elements); }
  static __m512 load(F16, const uint16_t* elements) { return _mm512_cvtph_ps(load_u16(elements)); }
  static __m512 load(Bf16, const uint16_t* elements) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_u16(elements)), 16));
  }

  static size_t store(F32, __m512 values, float* out) {
    _mm512_storeu_ps(out, values);
    return popcount(_mm512_fpclass_ps_mask(values, kNanOrInfinity));
  }
  static size_t store(F16, __m512 values, uint16_t* out) {
    return store_u16(_mm512_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT), F16::kExponent, out);
  }
  static size_t store(Bf16, __m512 values, uint16_t* out) {  // as narrow_bf16()
    const __m512i bits = _mm512_castps_si512(values);
    const __m512i high = _mm512_srli_epi32(bits, 16);
    const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, up), 16);
    const __mmask16 is_nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
    const __m512i narrow = _mm512_mask_or_epi32(rounded, is_nan, high, _mm512_set1_epi32(0x40));
    return store_u16(_mm512_cvtepi32_epi16(narrow), Bf16::kExponent, out);
  }

 private:
  static constexpr int kNanOrInfinity = 0x99;  // classes of fpclass: both NaNs, both infinities

  static __m256i load_u16(const uint16_t* elements) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(elements));
  }
  static size_t store_u16(__m256i elements, uint16_t exponent, uint16_t* out) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), elements);
    const __m256i ones = _mm256_set1_epi16(static_cast<int16_t>(exponent));
    return popcount(_mm256_cmpeq_epi16_mask(_mm256_and_si256(elements, ones), ones));
  }
};

size_t different(__m512i a, __m512i b, uint8_t) { return popcount(_mm512_cmpneq_epi8_mask(a, b)); }
size_t different(__m512i a, __m512i b, uint16_t) {
  return popcount(_mm512_cmpneq_epi16_mask(a, b));
}
size_t different(__m512i a, __m512i b, uint32_t) {
  return popcount(_mm512_cmpneq_epi32_mask(a, b));
}

template <typename T>
size_t count_different(const T* a, const T* b, size_t count) {
  constexpr size_t kLanes = sizeof(__m512i) / sizeof(T);
  size_t different_count = 0;
  size_t j = 0;
  for (; j + kLanes <= count; j += kLanes)
    different_count += different(_mm512_loadu_si512(a + j), _mm512_loadu_si512(b + j), T{});
  for (; j < count; ++j) different_count += a[j] != b[j];
  return different_count;
}

// Runs of a few cache lines are copied in fewer steps. Scatter and gather instructions take longer
// than one store or load at a time.
template <typename T>
void replace_moves(MoveKernels<T>* moves) {
  moves->gather_runs = gather_runs<T, sizeof(__m512i)>;
  moves->store_runs = store_runs<T, sizeof(__m512i)>;
  moves->swap_runs = swap_runs<T, sizeof(__m512i)>;
  moves->count_different = count_different<T>;
}

}  // namespace

void avx512_kernels(KernelTable* table) {
  replace_moves(&table->u8);
  replace_moves(&table->u16);
  replace_moves(&table->u32);
  table->f32 = VectorMath<Avx512, F32>::kKernels;
  table->f16 = VectorMath<Avx512, F16>::kKernels;
  table->bf16 = VectorMath<Avx512, Bf16>::kKernels;
}

}  // namespace shira::kernels
#endif
