// The int8 kernel whose products run on tiles: that of int8_body.h, which has them from GRU_TILES. AVX-512.
#pragma once

#include "cpu/int8/int8_body.h"

namespace gru_ext {
namespace {

struct TileDot {
  static constexpr int rows = kRowsOfTiles;
  static constexpr int zero = 0;
  // With masks of ones: for the plain forms GCC 12 warns of uninitialised values in its own header.
  static GRU_INLINE void store_rounded(uint8_t* target, VectorOf<float> value) {
    const __m512i rounded = _mm512_maskz_cvtps_epi32(0xffff, (__m512)value);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target), _mm512_maskz_cvtepi32_epi8(0xffff, rounded));
  }
};

}  // namespace
}  // namespace gru_ext
