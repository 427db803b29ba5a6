// Loads and stores of vectors, with conversion between the dtype of a tensor and the one that is computed in.
#pragma once

#include "cpu/kernels/parts.h"
#include "cpu/kernels/vector_math.h"

namespace gru_ext {
namespace {

// Conversions of a vector's lanes.
template <typename acc_t, typename T>
struct Lanes {
  using Vector = VectorOf<acc_t>;
  static constexpr int lanes = VectorMath<acc_t>::lanes;
  static GRU_INLINE Vector load(const T* source) {
    acc_t lane[lanes];
    for (int i = 0; i < lanes; ++i) lane[i] = static_cast<acc_t>(source[i]);
    Vector result;
    std::memcpy(&result, lane, sizeof result);
    return result;
  }
  static GRU_INLINE void store(T* target, Vector value) {
    acc_t lane[lanes];
    std::memcpy(lane, &value, sizeof value);
    for (int i = 0; i < lanes; ++i) target[i] = static_cast<T>(lane[i]);
  }
};

template <typename acc_t>
struct Lanes<acc_t, acc_t> {
  using Vector = VectorOf<acc_t>;
  static GRU_INLINE Vector load(const acc_t* source) {
    Vector result;
    std::memcpy(&result, source, sizeof result);
    return result;
  }
  static GRU_INLINE void store(acc_t* target, Vector value) { std::memcpy(target, &value, sizeof value); }
};

// bfloat16 is the upper half of a float: rounded to nearest even, NaN stays NaN. The instruction takes subnormal floats
// for zero.
template <>
struct Lanes<float, c10::BFloat16> {
  using Vector = VectorOf<float>;
  using Bits = VectorMath<float>::BitVector;
  typedef uint16_t HalfBits __attribute__((vector_size(GRU_VECTOR_BYTES / 2)));
  static GRU_INLINE Vector load(const c10::BFloat16* source) {
    HalfBits half;
    std::memcpy(&half, source, sizeof half);
    return (Vector)(__builtin_convertvector(half, Bits) << 16);
  }
  static GRU_INLINE void store(c10::BFloat16* target, Vector value) {
#if defined(GRU_MULTIPLIES_BF16)
    const __m256bh half = _mm512_cvtneps_pbh((__m512)value);
#else
    const Bits bits = (Bits)value;
    const Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const Bits kept = value == value ? rounded : Bits{} + 0x7fc0;
    const HalfBits half = __builtin_convertvector(kept, HalfBits);
#endif
    std::memcpy(target, &half, sizeof half);
  }
};

#if GRU_VECTOR_BYTES >= 32
// As the instructions convert it: to nearest even. With a mask of all lanes, as GCC 12 warns of what the others leave
// undefined.
template <>
struct Lanes<float, c10::Half> {
  using Vector = VectorOf<float>;
  static GRU_INLINE Vector load(const c10::Half* source) {
#if GRU_VECTOR_BYTES == 64
    return (Vector)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
#else
    return (Vector)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
#endif
  }
  static GRU_INLINE void store(c10::Half* target, Vector value) {
#if GRU_VECTOR_BYTES == 64
    const __m256i half = _mm512_maskz_cvtps_ph(0xffff, (__m512)value, _MM_FROUND_TO_NEAREST_INT);
#else
    const __m128i half = _mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT);
#endif
    std::memcpy(target, &half, sizeof half);
  }
};
#endif

template <int count>
struct Lanes<float, Part<count>> : Lanes<float, c10::BFloat16> {};

// The nearest bfloat16 of each lane.
GRU_INLINE VectorOf<float> nearest_bfloat16(VectorOf<float> value) {
  c10::BFloat16 nearest[VectorMath<float>::lanes];
  Lanes<float, c10::BFloat16>::store(nearest, value);
  return Lanes<float, c10::BFloat16>::load(nearest);
}

// `count` values from `source`, converted; the lanes beyond them are zero.
template <typename acc_t, typename T>
GRU_INLINE VectorOf<acc_t> load(const T* source, int64_t count) {
  constexpr int lanes = VectorMath<acc_t>::lanes;
  if (count == lanes) return Lanes<acc_t, T>::load(source);
  T part[lanes] = {};
  std::copy_n(source, count, part);
  return Lanes<acc_t, T>::load(part);
}

// The first `count` lanes of `value` to `target`, converted.
template <typename acc_t, typename T>
GRU_INLINE void store(T* target, VectorOf<acc_t> value, int64_t count) {
  constexpr int lanes = VectorMath<acc_t>::lanes;
  if (count == lanes) return Lanes<acc_t, T>::store(target, value);
  T part[lanes];
  Lanes<acc_t, T>::store(part, value);
  std::copy_n(part, count, target);
}

// The first `count` lanes of `value` to where they are operands of products: converted, or each of their parts to its
// share of a row, whose stride this is.
template <typename acc_t, typename operand_t>
GRU_INLINE void store_operand(operand_t* target, [[maybe_unused]] int64_t stride, VectorOf<acc_t> value,
                              int64_t count) {
  constexpr int parts = kParts<operand_t>;
  if constexpr (parts == 1) {
    store<acc_t>(target, value, count);
  } else {
    for (int part = 0; part < parts; ++part) {
      c10::BFloat16* const place = target + part * (stride / parts);
      store<acc_t>(place, value, count);
      value -= nearest_bfloat16(value);
    }
  }
}

// A vector of words: of operands as they lie, or of values that are converted to them.
template <typename acc_t, typename operand_t, typename T>
GRU_INLINE VectorOf<acc_t> load_words(const T* source) {
  if constexpr (!std::is_same_v<T, operand_t>) return Lanes<acc_t, T>::load(source);
  VectorOf<acc_t> words;
  std::memcpy(&words, source, sizeof words);
  return words;
}

// As many bytes, and integers, as a vector has lanes.
template <typename acc_t>
struct MaskLanes;
template <>
struct MaskLanes<float> {
  typedef uint8_t Bytes __attribute__((vector_size(GRU_VECTOR_BYTES / 4)));
  typedef int32_t Integers __attribute__((vector_size(GRU_VECTOR_BYTES)));
};
template <>
struct MaskLanes<double> {
  typedef uint8_t Bytes __attribute__((vector_size(GRU_VECTOR_BYTES / 8)));
  typedef int32_t Integers __attribute__((vector_size(GRU_VECTOR_BYTES / 2)));
};

// `count` bools from `source` as 0 and 1; the lanes beyond them are zero.
template <typename acc_t>
GRU_INLINE VectorOf<acc_t> load_mask(const bool* source, int64_t count) {
  constexpr int lanes = VectorMath<acc_t>::lanes;
  typename MaskLanes<acc_t>::Bytes bytes{};
  std::memcpy(&bytes, source, count == lanes ? lanes : count);
  const auto integers = __builtin_convertvector(bytes, typename MaskLanes<acc_t>::Integers);
  return __builtin_convertvector(integers, VectorOf<acc_t>);
}

}  // namespace
}  // namespace gru_ext
