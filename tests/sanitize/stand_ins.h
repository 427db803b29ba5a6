// What kernels of instruction sets that the machine lacks name of them, in plain C++; included in their sources in
// place of the pragma that asks for them. Everything else there is vectors of GNU C++, which any machine computes.
#pragma once

#include <immintrin.h>

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#define STAND_IN static inline __attribute__((always_inline))

template <typename To, typename From>
STAND_IN To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

template <typename T, int count>
struct Values {
  T of[count];
};

// To the sums of 32 bits, products of four unsigned with four signed bytes.
template <typename Vector>
STAND_IN Vector stand_in_dpbusd(Vector sums, Vector unsigned_bytes, Vector signed_bytes) {
  constexpr int lanes = sizeof(Vector) / 4;
  auto sum = bits_as<Values<int32_t, lanes>>(sums);
  const auto a = bits_as<Values<uint8_t, 4 * lanes>>(unsigned_bytes);
  const auto b = bits_as<Values<int8_t, 4 * lanes>>(signed_bytes);
  for (int i = 0; i < 4 * lanes; ++i) sum.of[i / 4] += a.of[i] * b.of[i];
  return bits_as<Vector>(sum);
}

// Pairs of bfloat16, the second first; each product is added without rounding between. Denormals are zero.
STAND_IN __m512 stand_in_dpbf16(__m512 sums, __m512bh left, __m512bh right) {
  const auto flushed = [](float value) {
    return std::fpclassify(value) == FP_SUBNORMAL ? std::copysign(0.0f, value) : value;
  };
  auto sum = bits_as<Values<float, 16>>(sums);
  const auto a = bits_as<Values<uint16_t, 32>>(left), b = bits_as<Values<uint16_t, 32>>(right);
  const auto value = [&](uint16_t half) { return flushed(bits_as<float>(static_cast<uint32_t>(half) << 16)); };
  for (int i = 0; i < 16; ++i) {
    for (int k : {2 * i + 1, 2 * i}) sum.of[i] = flushed(std::fma(value(a.of[k]), value(b.of[k]), flushed(sum.of[i])));
  }
  return bits_as<__m512>(sum);
}

STAND_IN __m512i stand_in_set1_epi32(int value) {
  Values<int32_t, 16> all;
  for (int32_t& lane : all.of) lane = value;
  return bits_as<__m512i>(all);
}

STAND_IN __m512i stand_in_add_epi32(__m512i left, __m512i right) {
  auto sum = bits_as<Values<int32_t, 16>>(left);
  const auto b = bits_as<Values<int32_t, 16>>(right);
  for (int i = 0; i < 16; ++i) sum.of[i] += b.of[i];
  return bits_as<__m512i>(sum);
}

// With masks of ones.
STAND_IN __m512i stand_in_cvtps_epi32(__mmask16, __m512 values) {
  const auto from = bits_as<Values<float, 16>>(values);
  Values<int32_t, 16> to;
  for (int i = 0; i < 16; ++i) to.of[i] = static_cast<int32_t>(std::nearbyint(from.of[i]));
  return bits_as<__m512i>(to);
}

STAND_IN __m128i stand_in_cvtepi32_epi8(__mmask16, __m512i values) {
  const auto from = bits_as<Values<int32_t, 16>>(values);
  Values<int8_t, 16> to;
  for (int i = 0; i < 16; ++i) to.of[i] = static_cast<int8_t>(from.of[i]);
  return bits_as<__m128i>(to);
}

STAND_IN __m512 stand_in_cvtph_ps(__mmask16, __m256i halves) {
  const auto from = bits_as<Values<uint16_t, 16>>(halves);
  Values<float, 16> to;
  for (int i = 0; i < 16; ++i) to.of[i] = c10::detail::fp16_ieee_to_fp32_value(from.of[i]);
  return bits_as<__m512>(to);
}

// To the nearest even, which is the only rounding that is asked for.
STAND_IN __m256i stand_in_cvtps_ph(__mmask16, __m512 values, int) {
  const auto from = bits_as<Values<float, 16>>(values);
  Values<uint16_t, 16> to;
  for (int i = 0; i < 16; ++i) to.of[i] = c10::detail::fp16_ieee_from_fp32_value(from.of[i]);
  return bits_as<__m256i>(to);
}

STAND_IN __m256bh stand_in_cvtneps_pbh(__m512 values) {
  const auto from = bits_as<Values<float, 16>>(values);
  Values<uint16_t, 16> to;
  for (int i = 0; i < 16; ++i) to.of[i] = c10::detail::round_to_nearest_even(from.of[i]);
  return bits_as<__m256bh>(to);
}

// The instructions take the second where either is NaN.
template <typename T, typename Vector>
STAND_IN Vector stand_in_min(Vector left, Vector right) {
  constexpr int lanes = sizeof(Vector) / sizeof(T);
  const auto a = bits_as<Values<T, lanes>>(left);
  auto b = bits_as<Values<T, lanes>>(right);
  for (int i = 0; i < lanes; ++i) b.of[i] = a.of[i] < b.of[i] ? a.of[i] : b.of[i];
  return bits_as<Vector>(b);
}

template <typename T, typename Vector>
STAND_IN Vector stand_in_max(Vector left, Vector right) {
  constexpr int lanes = sizeof(Vector) / sizeof(T);
  const auto a = bits_as<Values<T, lanes>>(left);
  auto b = bits_as<Values<T, lanes>>(right);
  for (int i = 0; i < lanes; ++i) b.of[i] = a.of[i] > b.of[i] ? a.of[i] : b.of[i];
  return bits_as<Vector>(b);
}

// What rounding to the nearest integer leaves.
STAND_IN __m512 stand_in_reduce(__m512 values) {
  auto rest = bits_as<Values<float, 16>>(values);
  for (float& lane : rest.of) lane = std::isinf(lane) ? 0 : lane - std::nearbyint(lane);
  return bits_as<__m512>(rest);
}

// Times 2 to a power that is an integer.
STAND_IN __m512 stand_in_scalef(__m512 values, __m512 powers) {
  auto scaled = bits_as<Values<float, 16>>(values);
  const auto power = bits_as<Values<float, 16>>(powers);
  for (int i = 0; i < 16; ++i) {
    const bool finite = std::abs(power.of[i]) < 1000;
    scaled.of[i] =
        finite ? std::scalbn(scaled.of[i], static_cast<int>(power.of[i])) : scaled.of[i] * std::exp2(power.of[i]);
  }
  return bits_as<__m512>(scaled);
}

#define _mm256_dpbusd_avx_epi32 stand_in_dpbusd
#define _mm512_dpbusd_epi32 stand_in_dpbusd
#define _mm512_dpbf16_ps stand_in_dpbf16
#define _mm512_set1_epi32 stand_in_set1_epi32
#define _mm512_add_epi32 stand_in_add_epi32
#define _mm512_maskz_cvtph_ps stand_in_cvtph_ps
#undef _mm512_maskz_cvtps_ph  // a macro in builds without optimisation
#define _mm512_maskz_cvtps_ph stand_in_cvtps_ph
#define _mm512_cvtneps_pbh stand_in_cvtneps_pbh
#define _mm512_maskz_cvtps_epi32 stand_in_cvtps_epi32
#define _mm512_maskz_cvtepi32_epi8 stand_in_cvtepi32_epi8
#define _mm512_maskz_min_ps(ones, left, right) stand_in_min<float>(left, right)
#define _mm512_maskz_max_ps(ones, left, right) stand_in_max<float>(left, right)
#define _mm512_maskz_min_pd(ones, left, right) stand_in_min<double>(left, right)
#define _mm512_maskz_max_pd(ones, left, right) stand_in_max<double>(left, right)
#undef _mm512_maskz_reduce_ps  // a macro in builds without optimisation
#define _mm512_maskz_reduce_ps(ones, values, nearest) stand_in_reduce(values)
#undef _mm512_maskz_scalef_ps
#define _mm512_maskz_scalef_ps(ones, values, powers) stand_in_scalef(values, powers)
