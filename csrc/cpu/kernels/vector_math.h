// sigmoid and tanh on GNU vectors, for whatever instruction set the including file has selected.
//
// exp(x) = 2^k * exp(r) with |r| <= ln(2)/2: k by adding and subtracting 1.5 * 2^(mantissa bits), which rounds to
// the nearest integer and leaves k in the low bits; exp(r) - 1 by its Taylor series, whose remainder is below half
// a unit in the last place at the degrees used. Cody and Waite, "Software Manual for the Elementary Functions",
// 1980, chapter 6. Keeping exp(r) - 1 and 2^k apart makes exp(x) - 1, and so tanh, accurate near 0.
// NaN stays NaN: limits select x when the comparison is false. sigmoid is 0 from where exp(-x) is no finite number
// on, as in torch: 0 times an infinity has to be NaN.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/kernels/inline.h"

namespace {

template <typename T>
struct FloatFormat;

template <>
struct FloatFormat<float> {
  using Bits = uint32_t;
  static constexpr int mantissa_bits = 23;
  static constexpr Bits half_bits = 0x3f000000u;
  static constexpr float round_magic = 0x1.8p23f;
  static constexpr float log2_e = 0x1.715476p0f;
  static constexpr float ln2_high = 0x1.62ep-1f;  // few bits, so that k * ln2_high is exact
  static constexpr float ln2_low = 0x1.0bfbe8p-15f;
  static constexpr float most_exp = 0x1.62e42ep6f;  // exp of it is finite, that of the next number is not
  static constexpr float least_exp = -87.0f;        // half of exp of it is as good as 0
  static constexpr float tanh_limit = 9.5f;         // tanh rounds to 1 beyond it
  static constexpr int exp_degree = 7;
};

template <>
struct FloatFormat<double> {
  using Bits = uint64_t;
  static constexpr int mantissa_bits = 52;
  static constexpr Bits half_bits = 0x3fe0000000000000u;
  static constexpr double round_magic = 0x1.8p52;
  static constexpr double log2_e = 0x1.71547652b82fep0;
  static constexpr double ln2_high = 0x1.62e42feep-1;
  static constexpr double ln2_low = 0x1.a39ef35793c76p-33;
  static constexpr double most_exp = 0x1.62e42fefa39efp9;
  static constexpr double least_exp = -700.0;
  static constexpr double tanh_limit = 20.0;
  static constexpr int exp_degree = 13;
};

// GRU_VECTOR_BYTES bytes of T, and sigmoid and tanh of them.
template <typename T>
struct VectorMath {
  using Format = FloatFormat<T>;
  typedef T Vector __attribute__((vector_size(GRU_VECTOR_BYTES)));
  typedef typename Format::Bits BitVector __attribute__((vector_size(GRU_VECTOR_BYTES)));
  static constexpr int lanes = GRU_VECTOR_BYTES / sizeof(T);

  // x, but at most and at least limits; NaN stays. GCC 12 makes no minimum or maximum of the comparison.
  static GRU_INLINE Vector at_most(Vector x, T limit) {
    const Vector high = Vector{} + limit;
#if GRU_VECTOR_BYTES == 64
    if constexpr (sizeof(T) == 4) return (Vector)_mm512_maskz_min_ps(0xffff, (__m512)high, (__m512)x);
    if constexpr (sizeof(T) == 8) return (Vector)_mm512_maskz_min_pd(0xff, (__m512d)high, (__m512d)x);
#elif GRU_VECTOR_BYTES == 32
    if constexpr (sizeof(T) == 4) return (Vector)_mm256_min_ps((__m256)high, (__m256)x);
    if constexpr (sizeof(T) == 8) return (Vector)_mm256_min_pd((__m256d)high, (__m256d)x);
#endif
    return high < x ? high : x;
  }
  static GRU_INLINE Vector at_least(Vector x, T limit) {
    const Vector low = Vector{} + limit;
#if GRU_VECTOR_BYTES == 64
    if constexpr (sizeof(T) == 4) return (Vector)_mm512_maskz_max_ps(0xffff, (__m512)low, (__m512)x);
    if constexpr (sizeof(T) == 8) return (Vector)_mm512_maskz_max_pd(0xff, (__m512d)low, (__m512d)x);
#elif GRU_VECTOR_BYTES == 32
    if constexpr (sizeof(T) == 4) return (Vector)_mm256_max_ps((__m256)low, (__m256)x);
    if constexpr (sizeof(T) == 8) return (Vector)_mm256_max_pd((__m256d)low, (__m256d)x);
#endif
    return low > x ? low : x;
  }

  // exp(x) = 2 * half_scale * (1 + expm1): 2^k itself may be no finite number where exp(x) is one.
  static GRU_INLINE void exp_parts(Vector x, Vector& expm1, Vector& half_scale) {
    const Vector shifted = x * Format::log2_e + Format::round_magic;
    const Vector k = shifted - Format::round_magic;
    const Vector r = (x - k * Format::ln2_high) - k * Format::ln2_low;
    T inverse_factorial[Format::exp_degree + 1] = {1};
    for (int i = 1; i <= Format::exp_degree; ++i) inverse_factorial[i] = inverse_factorial[i - 1] / i;
    Vector series = Vector{} + inverse_factorial[Format::exp_degree];
#pragma GCC unroll 16
    for (int i = Format::exp_degree - 1; i >= 2; --i) series = series * r + inverse_factorial[i];
    expm1 = series * (r * r) + r;
    BitVector bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits << Format::mantissa_bits) + Format::half_bits;
    std::memcpy(&half_scale, &bits, sizeof bits);
  }

  static GRU_INLINE Vector sigmoid(Vector x) {
    Vector expm1, half_scale;
    exp_parts(-at_most(at_least(x, -Format::most_exp), -Format::least_exp), expm1, half_scale);
    const Vector result = T(0.5) / (half_scale * expm1 + half_scale + T(0.5));
    return x < -Format::most_exp ? Vector{} : result;
  }

  // With e = exp(2 |x|): (e - 1) / (e + 1) near 0, where e - 1 is accurate; 1 - 2 / (e + 1) beyond, where that is, so
  // that 1 - tanh(x)^2, which the derivative needs, keeps its accuracy too.
  static GRU_INLINE Vector tanh(Vector x) {
    const Vector magnitude = at_most(x < 0 ? -x : x, Format::tanh_limit);
    Vector expm1, half_scale;
    exp_parts(magnitude + magnitude, expm1, half_scale);
    const Vector scale = half_scale + half_scale;
    const Vector e_minus_1 = scale * expm1 + (scale - T(1));
    const Vector inverse = T(1) / (e_minus_1 + T(2));
    const Vector result = magnitude < T(0.5) ? e_minus_1 * inverse : T(1) - (inverse + inverse);
    return x < 0 ? -result : result;
  }
};

template <typename T>
using VectorOf = typename VectorMath<T>::Vector;

// The same for cells whose results are rounded to bfloat16: sigmoid within 8e-7 and tanh within 1.5e-6, in less time.
// exp(x) = 2^k * (1 + f * g(f)) with |f| <= 1/2, where the polynomial g makes the largest relative error least, 2.8e-6.
struct MathForBFloat16 : VectorMath<float> {
  static GRU_INLINE Vector g(Vector f) {
    return (f * 0x1.3a0184p-7f + 0x1.c9fd38p-5f) * (f * f) + (f * 0x1.ec037ep-3f + 0x1.62e12ap-1f);
  }

  // `scale` is 2^(k + exponent), where k is factor * x rounded to an integer, and f the rest of it.
  template <int exponent>
  static GRU_INLINE void exp2_parts(Vector x, float factor, Vector& scale, Vector& f_g) {
    constexpr float magic = Format::round_magic + (127 + exponent);  // so that the biased exponent is in the low bits
    const Vector shifted = x * factor + magic;
    const Vector f = x * factor - (shifted - magic);
    f_g = f * g(f);
    BitVector bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits <<= Format::mantissa_bits;
    std::memcpy(&scale, &bits, sizeof bits);
  }

  static GRU_INLINE Vector sigmoid(Vector x) {
#if GRU_VECTOR_BYTES == 64
    // AVX-512 has the rest f as an instruction, and times 2^k as one that knows infinity: there are no limits to set.
    const auto power = (__m512)(x * -Format::log2_e), f = _mm512_maskz_reduce_ps(0xffff, power, 0);
    const auto of_rest = (__m512)((Vector)f * g((Vector)f) + 1.0f);
    return 1.0f / ((Vector)_mm512_maskz_scalef_ps(0xffff, of_rest, (__m512)((Vector)power - (Vector)f)) + 1.0f);
#else
    Vector half_scale, f_g;
    exp2_parts<-1>(at_most(at_least(x, -Format::most_exp), -Format::least_exp), -Format::log2_e, half_scale, f_g);
    const Vector result = 0.5f / (half_scale * (f_g + 1.0f) + 0.5f);
    return x < -Format::most_exp ? Vector{} : result;
#endif
  }

  static GRU_INLINE Vector tanh(Vector x) {
    Vector scale, f_g;
    exp2_parts<0>(at_most(at_least(x, -Format::tanh_limit), Format::tanh_limit), 2 * Format::log2_e, scale, f_g);
    const Vector e_minus_1 = scale * f_g + (scale - 1.0f);
    return e_minus_1 / (e_minus_1 + 2.0f);
  }
};

}  // namespace
