// Copies of the weights in the order in which the products read them.
#pragma once

#include <utility>

#include "vector_math.h"

namespace gru_ext {
namespace {

// Interleaves the low (offset 0) or high (offset lanes / 2) halves of two vectors: a0 b0 a1 b1 ...
template <typename T, int offset, size_t... i>
inline __attribute__((always_inline)) typename VectorMath<T>::Vector interleave(typename VectorMath<T>::Vector a,
                                                                                typename VectorMath<T>::Vector b,
                                                                                std::index_sequence<i...>) {
  using Mask = typename VectorMath<T>::BitVector;
  constexpr int lanes = VectorMath<T>::lanes;
  return __builtin_shuffle(a, b, Mask{(i % 2 * lanes + i / 2 + offset)...});
}

// Transposes a square of vectors: log2(lanes) times, row i and row i + lanes / 2 interleave into rows 2i and 2i + 1.
template <typename T>
inline __attribute__((always_inline)) void transpose(typename VectorMath<T>::Vector (&rows)[VectorMath<T>::lanes]) {
  using Vector = typename VectorMath<T>::Vector;
  constexpr int lanes = VectorMath<T>::lanes;
  constexpr auto all = std::make_index_sequence<lanes>();
#pragma GCC unroll 4
  for (int done = 1; done < lanes; done *= 2) {
    Vector next[lanes];
#pragma GCC unroll 16
    for (int i = 0; i < lanes / 2; ++i) {
      next[2 * i] = interleave<T, 0>(rows[i], rows[i + lanes / 2], all);
      next[2 * i + 1] = interleave<T, lanes / 2>(rows[i], rows[i + lanes / 2], all);
    }
    std::memcpy(rows, next, sizeof next);
  }
}

// A word of a row is a T, whatever values it is made of.
template <typename T, typename operand_t>
void pack_gates(const operand_t* weights, int64_t H, int64_t K, int64_t begin, int64_t end, void* packed) {
  using Vector = typename VectorMath<T>::Vector;
  constexpr int lanes = VectorMath<T>::lanes;
  constexpr int64_t values = sizeof(T) / sizeof(operand_t);
  const int64_t words = (K + values - 1) / values;
  for (int64_t group = begin; group < end; ++group) {
    const int64_t units = std::min<int64_t>(lanes, H - group * lanes);
    for (int64_t word = 0; word < words; word += lanes) {
      const size_t bytes = std::min(sizeof(Vector), (K - word * values) * sizeof(operand_t));
      const int64_t columns = std::min<int64_t>(lanes, words - word);
      for (int gate = 0; gate < 3; ++gate) {
        const operand_t* source = weights + (gate * H + group * lanes) * K + word * values;
        Vector square[lanes] = {};
        if (units == lanes && bytes == sizeof(Vector)) {
#pragma GCC unroll 16
          for (int i = 0; i < lanes; ++i) std::memcpy(&square[i], source + i * K, sizeof(Vector));
        } else {
          for (int64_t i = 0; i < units; ++i) std::memcpy(&square[i], source + i * K, bytes);
        }
        transpose<T>(square);
        T* target = static_cast<T*>(packed) + ((group * words + word) * 3 + gate) * lanes;
        for (int64_t i = 0; i < columns; ++i) std::memcpy(target + i * 3 * lanes, &square[i], sizeof(Vector));
      }
    }
  }
}

template <typename T, int panel_columns>
void pack_columns(const T* weights, int64_t H, int64_t begin, int64_t end, T* packed) {
  for (int64_t panel = begin; panel < end; ++panel) {
    const int64_t columns = std::min<int64_t>(panel_columns, H - panel * panel_columns);
    for (int64_t k = 0; k < 3 * H; ++k) {
      const T* source = weights + k * H + panel * panel_columns;
      T* target = packed + (panel * 3 * H + k) * panel_columns;
      if (columns == panel_columns) {
        std::memcpy(target, source, panel_columns * sizeof(T));
      } else {
        std::memcpy(target, source, columns * sizeof(T));
        std::memset(target + columns, 0, (panel_columns - columns) * sizeof(T));
      }
    }
  }
}

}  // namespace
}  // namespace gru_ext
