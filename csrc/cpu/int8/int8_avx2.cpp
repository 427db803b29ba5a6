// The int8 kernel for AVX2 with FMA.
#if defined(__x86_64__)
#include "cpu/kernels/before_target.h"

#pragma GCC target("avx2,fma,f16c,prfchw")
#define GRU_VECTOR_BYTES 32
#include "cpu/int8/int8_body.h"

namespace gru_ext {
namespace {

// |a| times b with the sign of a. No sum of two products saturates 16 bits: neither operand is ever -128.
struct Dot {
  static constexpr int rows = 4;
  static constexpr int zero = 0;
  struct Word {
    __m256i value, magnitude;
  };
  static GRU_INLINE Word broadcast(const uint8_t* bytes) {
    int word;
    std::memcpy(&word, bytes, sizeof word);
    const __m256i value = _mm256_set1_epi32(word);
    return {value, _mm256_abs_epi8(value)};
  }
  static GRU_INLINE void add(IntVector& sum, const Word& word, IntVector column) {
    const __m256i pairs = _mm256_maddubs_epi16(word.magnitude, _mm256_sign_epi8((__m256i)column, word.value));
    sum += (IntVector)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  }
  static GRU_INLINE void store_rounded(uint8_t* target, VectorOf<float> value) {
    const __m256i rounded = _mm256_cvtps_epi32((__m256)value);
    const __m256i low = _mm256_shuffle_epi8(rounded, _mm256_set1_epi32(0x0c080400));  // the low bytes of each half
    _mm_storeu_si64(target, _mm_unpacklo_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1)));
  }
};

}  // namespace

Int8Kernel int8_kernel_avx2() { return int8_chunk<Dot>; }

}  // namespace gru_ext
#endif
