// Products of a few rows with a matrix of weights as it lies: for calls of so few rows that packing costs more.
//
// Backward, units are columns of a parameter, which lie next to each other in each of its rows. So a vector has some
// columns of a row of weights, converted as it is loaded.
#pragma once

#include "cpu/kernels/lanes_body.h"
#include "cpu/kernels/product_body.h"
#include "cpu/kernels/row_tiles.h"

namespace gru_ext {
namespace {

// Most rows of a product; the vectors of a tile are as many as the registers' sums allow.
constexpr int kMatrixRows = kAccumulators < 6 ? kAccumulators : 6;
constexpr int kMatrixVectors = 8;

// sums (rows, vectors * lanes) = a (rows, K) times some columns of weights, whose rows are `stride` apart.
template <typename T, int rows, int vectors, typename weight_t>
GRU_INLINE void matrix_tile(const T* a, int64_t a_stride, const weight_t* weights, int64_t stride, int64_t K,
                            VectorOf<T> (&sum)[rows][vectors]) {
  using Vector = VectorOf<T>;
  constexpr int lanes = VectorMath<T>::lanes;
  for (int64_t k = 0; k < K; ++k) {
    Vector column[vectors];
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) column[v] = load<T>(weights + k * stride + v * lanes, lanes);
#pragma GCC unroll 6
    for (int m = 0; m < rows; ++m) {
      const Vector value = a[m * a_stride + k] - Vector{};
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) sum[m][v] += value * column[v];
    }
  }
}

// Adds to out (rows, count) the product of a (rows, K) with the first columns of weights, as many vectors of them as
// are in `count`. Returns the columns that are done.
template <typename T, int rows, int vectors, typename weight_t>
GRU_INLINE int64_t add_whole_vectors(const T* a, int64_t a_stride, const weight_t* weights, int64_t stride, int64_t K,
                                     int64_t count, T* out, int64_t out_stride) {
  using Vector = VectorOf<T>;
  constexpr int lanes = VectorMath<T>::lanes;
  int64_t c = 0;
  for (; c + vectors * lanes <= count; c += vectors * lanes) {
    Vector sum[rows][vectors] = {};
    matrix_tile<T, rows, vectors>(a, a_stride, weights + c, stride, K, sum);
    for (int m = 0; m < rows; ++m) {
      for (int v = 0; v < vectors; ++v) {
        T* const target = out + m * out_stride + c + v * lanes;
        store<T>(target, load<T>(target, lanes) + sum[m][v], lanes);
      }
    }
  }
  if constexpr (vectors > 1) {
    return c +
           add_whole_vectors<T, rows, vectors / 2>(a, a_stride, weights + c, stride, K, count - c, out + c, out_stride);
  }
  return c;
}

// add_matrix_product of at most kMatrixRows rows.
template <typename T, typename weight_t, int rows = kMatrixRows>
__attribute__((noinline)) void matrix_product_rows(int64_t row_count, const T* a, int64_t a_stride,
                                                   const weight_t* weights, int64_t columns, int64_t K, int64_t first,
                                                   int64_t count, T* out, int64_t out_stride) {
  if (row_count < rows) {
    if constexpr (rows > 1) {
      matrix_product_rows<T, weight_t, rows - 1>(row_count, a, a_stride, weights, columns, K, first, count, out,
                                                 out_stride);
    }
    return;
  }
  using Vector = VectorOf<T>;
  constexpr int lanes = VectorMath<T>::lanes;
  constexpr int fit = kAccumulators / rows;
  constexpr int vectors = fit >= kMatrixVectors ? kMatrixVectors : fit >= 4 ? 4 : fit >= 2 ? 2 : 1;
  for (int64_t k = 0; k < K; k += kLongestSum) {
    const int64_t length = std::min(K - k, kLongestSum);
    const weight_t* const part = weights + k * columns + first;
    const int64_t done =
        add_whole_vectors<T, rows, vectors>(a + k, a_stride, part, columns, length, count, out, out_stride);
    if (done == count) continue;
    // Columns that are no whole vector end one that begins before them, where the matrix has it.
    const int64_t rest = count - done, before = std::min(first + done, lanes - rest);
    Vector sum[rows] = {};
    for (int64_t i = 0; i < length; ++i) {
      const Vector column = load<T>(part + done - before + i * columns, before + rest);
      for (int m = 0; m < rows; ++m) sum[m] += (a[m * a_stride + k + i] - Vector{}) * column;
    }
    for (int m = 0; m < rows; ++m) {
      for (int64_t c = 0; c < rest; ++c) out[m * out_stride + done + c] += sum[m][before + c];
    }
  }
}

// Adds to out (rows, count) the product of a (rows, K) with the columns [first, first + count) of weights (K, columns).
template <typename T, typename weight_t>
void add_matrix_product(int64_t rows, const T* a, int64_t a_stride, const weight_t* weights, int64_t columns, int64_t K,
                        int64_t first, int64_t count, T* out, int64_t out_stride) {
  for_each_tile<kMatrixRows>(rows, [&](int64_t row, int64_t tile) {
    matrix_product_rows(tile, a + row * a_stride, a_stride, weights, columns, K, first, count, out + row * out_stride,
                        out_stride);
  });
}

}  // namespace
}  // namespace gru_ext
