// Products of rows with a panel of packed weights: by tiles (tile_product_body.h) where the instruction set has them
// for the operands, else by the micro-kernel of product_body.h.
#pragma once

#include "cpu/kernels/lanes_body.h"
#include "cpu/kernels/pack_body.h"
#include "cpu/kernels/product_body.h"
#include "cpu/kernels/row_tiles.h"
#include "cpu/kernels/tile_product_body.h"

namespace gru_ext {
namespace {

template <typename operand_t>
using TilesOf = std::conditional_t<std::is_base_of_v<c10::BFloat16, operand_t>, GRU_TILES, void>;
template <typename operand_t>
constexpr bool kOnTiles = !std::is_void_v<TilesOf<operand_t>>;
// Of what tiles of rows begin at multiples: rows in words are read from there.
template <typename operand_t>
constexpr int kRowMultiple = kOnTiles<operand_t> ? kTileHeight : 1;

// Most rows of a tile of a product with a panel of so many vectors.
template <typename operand_t, int vectors>
constexpr int kMostRows = kOnTiles<operand_t> ? kRowsOfTiles : kTileRows<vectors>;

// Rows that a step takes through a product at once: tiles that read the panel one after the other, from the nearest
// cache but for the first of them.
template <typename operand_t, int vectors>
constexpr int kRowsAtOnce = kOnTiles<operand_t> ? kRowsOfTiles : 8 * kTileRows<vectors>;

constexpr auto kNothingBefore = [](int64_t /*first*/, int64_t /*rows*/) {};

// out (count, vectors * lanes) = a (count, K) times a panel of packed weights; plus `bias` (vectors, lanes), whose
// vectors are bias_stride apart, or plus what out holds. `far`: whether the panel is (are_far). `one_chain`: see
// FwdChunk. `before(first, rows)` comes before the last part of the product of these rows; `between(done, all)` on
// tiles, where the rows are those of one product, between its parts.
template <int vectors, Start start, typename T, typename operand_t, typename Before = decltype(kNothingBefore),
          typename Between = decltype(kNothingBetween)>
GRU_INLINE void product_rows(int64_t count, const operand_t* a, int64_t a_stride, const T* panel, int64_t K,
                             const T* bias, int64_t bias_stride, T* out, int64_t out_stride, bool far = false,
                             bool one_chain = false, const Before& before = kNothingBefore,
                             const Between& between = kNothingBetween) {
  constexpr int largest = kMostRows<operand_t, vectors>;
  if constexpr (kOnTiles<operand_t>) {
    static_assert(VectorMath<T>::lanes == kTileHeight);
    for_each_tile<largest, kTileHeight>(count, [&](int64_t first, int64_t rows) GRU_INLINED {
      before(first, rows);
      multiply_tiles<TilesOf<operand_t>, operand_t, vectors>(
          rows, a + first * a_stride, a_stride * sizeof(operand_t), panel, K * sizeof(operand_t),
          out + first * out_stride, out_stride * sizeof(T),
          [&](const auto& product) GRU_INLINED {
            if constexpr (start == Start::zero) product.begin();
            if constexpr (start == Start::bias) product.begin(bias, bias_stride * sizeof(T));
            if constexpr (start == Start::accumulate) product.begin_with_results();
          },
          between);
    });
  } else {
    // All tiles of rows meet a part of the panel that the nearest cache holds before the next one.
    const auto multiply = [&](auto start_of_part, int64_t k) GRU_INLINED {
      constexpr Start begins = decltype(start_of_part)::value;
      const T* const part = panel + k / Multiply<T, operand_t>::values * vectors * VectorMath<T>::lanes;
      const int64_t length = std::min(K - k, kLongestSum);
      for_each_tile<largest>(count, [&](int64_t first, int64_t rows) GRU_INLINED {
        if (k + length == K) before(first, rows);
        const operand_t* const left = a + first * a_stride + k;
        T* const target = out + first * out_stride;
        constexpr int few = kRowsOfSeveralSums<vectors>;
        if (one_chain && rows <= few) {
          vector_product_rows<vectors, begins, /*asks=*/false, T, operand_t, few, /*one_chain=*/true>(
              rows, left, a_stride, part, length, bias, bias_stride, target, out_stride);
        } else if (far && first == 0) {
          vector_product_rows<vectors, begins, true>(rows, left, a_stride, part, length, bias, bias_stride, target,
                                                     out_stride);
        } else {
          vector_product_rows<vectors, begins, false>(rows, left, a_stride, part, length, bias, bias_stride, target,
                                                      out_stride);
        }
      });
    };
    multiply(std::integral_constant<Start, start>{}, 0);
    for (int64_t k = kLongestSum; k < K; k += kLongestSum) {
      multiply(std::integral_constant<Start, Start::accumulate>{}, k);
    }
  }
}

// Columns of rows of gate gradients, transposed: the left operand of the gradients of the weights. They are packed once
// for many panels.
template <typename T, typename operand_t>
class PackedColumns {
 public:
  static constexpr int kMost = kMostRows<operand_t, kPanelVectors>;

  // Columns [0, count) of K rows, at most kLongestSum, of which `row(k)` is one. `stride`: of the rows.
  template <typename Row>
  void pack(const Row& row, [[maybe_unused]] int64_t stride, int64_t K, int64_t count) {
    if constexpr (kOnTiles<operand_t>) {
      for (int part = 0; part < parts; ++part) {
        transpose_words([&](int64_t k) { return row(k) + part * (stride / parts); }, K, count,
                        columns_ + part * kLongestSum);
      }
    } else {
      pack_panel<operand_t, kMost, values>(row, K, 0, count, columns_);
    }
  }

  // out (kMost, kPanelColumns), of which `count` rows are wanted: the columns times the words of a panel.
  void multiply(int64_t K, int64_t count, const T* panel, T* out) const {
    constexpr int width = kPanelColumns<T>;
    const T* no_bias = nullptr;
    if constexpr (kOnTiles<operand_t>) {
      product_rows<kPanelVectors, Start::zero>(count, columns_, parts * kLongestSum, panel, K, no_bias, 0, out, width);
    } else {
      constexpr Layout layout{values, kMost * values};
      product_tile<T, operand_t, kMost, kPanelVectors, Start::zero, /*asks=*/false>(
          columns_, panel, layout, (K + values - 1) / values * values, no_bias, 0, out, width);
    }
  }

 private:
  static constexpr int values = sizeof(T) / sizeof(operand_t);
  static constexpr int parts = kParts<operand_t>;

  // (count, K): a vector has pairs of rows of each of 16 columns, a square of them is transposed.
  template <typename Row>
  void transpose_words(const Row& row, int64_t K, int64_t count, operand_t* columns) {
    using Math = VectorMath<float>;
    constexpr int lanes = Math::lanes;
    for (int64_t k = 0; k < K; k += 2 * lanes) {
      for (int64_t first = 0; first < count; first += lanes) {
        const auto upper = [&](int64_t i) GRU_INLINED {
          if (k + i >= K) return typename Math::BitVector{};
          return (typename Math::BitVector)load<float>(row(k + i) + first, std::min<int64_t>(lanes, count - first));
        };
        typename Math::Vector square[lanes];
        for (int i = 0; i < lanes; ++i) square[i] = (typename Math::Vector)(upper(2 * i) >> 16 | upper(2 * i + 1));
        transpose<float>(square);
        for (int i = 0; i < lanes; ++i) {
          std::memcpy(columns + (first + i) * parts * kLongestSum + k, &square[i], sizeof square[i]);
        }
      }
    }
  }

  alignas(64) operand_t columns_[kMost * parts * kLongestSum];
};

}  // namespace
}  // namespace gru_ext
