// The int8 kernel for AVX2 with AVX-VNNI.
#if defined(__x86_64__)
#include "cpu/kernels/before_target.h"

#pragma GCC target("avx2,fma,f16c,prfchw,avxvnni")
#define GRU_VECTOR_BYTES 32
#include "cpu/int8/int8_body.h"

namespace gru_ext {
namespace {

struct Dot {
  static constexpr int rows = 4;
  static constexpr int zero = 128;
  using Word = __m256i;
  static GRU_INLINE Word broadcast(const uint8_t* bytes) {
    int word;
    std::memcpy(&word, bytes, sizeof word);
    return _mm256_set1_epi32(word);
  }
  static GRU_INLINE void add(IntVector& sum, Word word, IntVector column) {
    sum = (IntVector)_mm256_dpbusd_avx_epi32((__m256i)sum, word, (__m256i)column);
  }
  static GRU_INLINE void store_rounded(uint8_t* target, VectorOf<float> value) {
    const __m256i rounded = _mm256_add_epi32(_mm256_cvtps_epi32((__m256)value), _mm256_set1_epi32(zero));
    const __m256i low = _mm256_shuffle_epi8(rounded, _mm256_set1_epi32(0x0c080400));  // the low bytes of each half
    _mm_storeu_si64(target, _mm_unpacklo_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1)));
  }
};

}  // namespace

Int8Kernel int8_kernel_avx2_vnni() { return int8_chunk<Dot>; }

}  // namespace gru_ext
#endif
