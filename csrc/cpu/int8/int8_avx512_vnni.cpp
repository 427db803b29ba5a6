// The int8 kernel for AVX-512 with VNNI.
#if defined(__x86_64__)
#include "cpu/kernels/before_target.h"

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c,prfchw")
#define GRU_VECTOR_BYTES 64
#include "cpu/int8/int8_body.h"

namespace gru_ext {
namespace {

struct Dot {
  static constexpr int rows = 8;
  static constexpr int zero = 128;
  using Word = __m512i;
  static GRU_INLINE Word broadcast(const uint8_t* bytes) {
    int word;
    std::memcpy(&word, bytes, sizeof word);
    return _mm512_set1_epi32(word);
  }
  static GRU_INLINE void add(IntVector& sum, Word word, IntVector column) {
    sum = (IntVector)_mm512_dpbusd_epi32((__m512i)sum, word, (__m512i)column);
  }
  // With masks of ones: for the plain forms GCC 12 warns of uninitialised values in its own header.
  static GRU_INLINE void store_rounded(uint8_t* target, VectorOf<float> value) {
    const __m512i rounded = _mm512_add_epi32(_mm512_maskz_cvtps_epi32(0xffff, (__m512)value), _mm512_set1_epi32(zero));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target), _mm512_maskz_cvtepi32_epi8(0xffff, rounded));
  }
};

}  // namespace

Int8Kernel int8_kernel_avx512_vnni() { return int8_chunk<Dot>; }

}  // namespace gru_ext
#endif
