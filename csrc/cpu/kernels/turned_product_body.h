// Products of rows with weights that are not packed, by tiles: for calls of so few rows that packing costs more.
//
// The rows of a weight (gates of H units, K) that are 16 units of a gate are the left operand of a tile's product as
// they lie. The right one are 16 rows of the batch in words: each word of all 16, then the next. So the sums are
// (16 units, 16 rows); they are transposed at the end. Their bits are those of products with packed weights: the same
// products in the same order, from the same start.
#pragma once

#include "cpu/kernels/kernels.h"
#include "cpu/kernels/pack_body.h"
#include "cpu/kernels/product_body.h"
#include "cpu/kernels/tile_product_body.h"

namespace gru_ext {
namespace {

// Some columns of a row, to rows in words (`words_stride`). Beyond `count` come zeros: a weight of zero would not
// cancel what may be there.
GRU_INLINE void store_words(c10::BFloat16* rows, int64_t stride, int64_t row, int64_t column, VectorOf<float> value,
                            int64_t count) {
  constexpr int lanes = VectorMath<float>::lanes;
  c10::BFloat16 halves[lanes] = {};
  store<float>(halves, value, count);
  char* const target = reinterpret_cast<char*>(rows + row / kTileHeight * kTileHeight * stride);
  for (int i = 0; i < lanes; i += 2) {
    std::memcpy(target + (column + i) / 2 * kTileRowBytes + row % kTileHeight * 4, halves + i, 4);
  }
}

// `count` values as a row of rows in words, with zeros up to the stride.
inline void to_words(const float* source, int64_t count, c10::BFloat16* rows, int64_t stride, int64_t row) {
  constexpr int64_t lanes = VectorMath<float>::lanes;
  for (int64_t i = 0; i < stride; i += lanes) {
    const int64_t part = std::clamp<int64_t>(count - i, 0, lanes);
    store_words(rows, stride, row, i, load<float>(source + i, part), part);
  }
}

template <typename Tiles, int vectors, bool both>
struct TurnedProduct : TileDepth<Tiles, c10::BFloat16, vectors, both, /*turned=*/true> {
  const char* rows[2];                 // in words
  const char* weights;                 // of the first unit
  int64_t vector_stride, unit_stride;  // bytes
  int64_t units[vectors];              // 16, or those that there are
  bool whole;                          // whether all are 16

  const char* words(int tile, int64_t done) const { return rows[tile] + done / 4 * kTileRowBytes; }

  // A depth of K, of `bytes` of it, with a copy of the weights: what comes after the last of them is another's memory.
  __attribute__((noinline)) void add_copy(int64_t done, int64_t bytes) const {
    alignas(64) char copy[vectors][kTileHeight][kTileRowBytes] = {};
    for (int v = 0; v < vectors; ++v) {
      for (int64_t i = 0; i < units[v]; ++i) {
        std::memcpy(copy[v][i], weights + v * vector_stride + i * unit_stride + done, bytes);
      }
    }
    this->add_depth(words(0, done), words(both, done), kTileRowBytes, copy[0][0], sizeof copy[0], kTileRowBytes);
  }

  GRU_INLINE void add_all(int64_t bytes) const {
    int64_t done = 0;
    for (; whole && done + kTileRowBytes <= bytes; done += kTileRowBytes) {
      this->add_depth(words(0, done), words(both, done), kTileRowBytes, weights + done, vector_stride, unit_stride);
    }
    for (; done < bytes; done += kTileRowBytes) add_copy(done, std::min<int64_t>(kTileRowBytes, bytes - done));
  }
};

// out (count, vectors, 16) = `count` rows in words, at most kRowsOfTiles, times those rows of weights (gates of H
// units, K) that `of` says, from `unit` on; plus `bias` (vectors, 16), whose vectors are bias_stride apart, unless it
// is null.
template <typename Tiles, int vectors>
__attribute__((noinline)) void turned_product_rows(int64_t count, const c10::BFloat16* rows, int64_t stride,
                                                   const c10::BFloat16* weights, UnitVectors of, int64_t H, int64_t K,
                                                   int64_t unit, const float* bias, int64_t bias_stride, float* out) {
  using Vector = VectorOf<float>;
  configured_height<Tiles, vectors>(kTileHeight);
  const auto run = [&](auto both) GRU_INLINED {
    using Product = TurnedProduct<Tiles, vectors, both.value>;
    constexpr int64_t size = sizeof(c10::BFloat16);
    Product product;
    for (int tile = 0; tile <= both.value; ++tile) {
      product.rows[tile] = reinterpret_cast<const char*>(rows + tile * kTileHeight * stride);
    }
    product.weights = reinterpret_cast<const char*>(weights + unit * K);
    product.vector_stride = (of.gate_step * H + of.group_step * kTileHeight) * K * size;
    product.unit_stride = K * size;
    for (int v = 0; v < vectors; ++v) {
      const int64_t first = unit + v * of.group_step * kTileHeight;
      product.units[v] = std::clamp<int64_t>(H - first, 0, kTileHeight);
    }
    product.whole = product.units[vectors - 1] == kTileHeight;

    alignas(64) Vector sums[both.value + 1][vectors][kTileHeight];
    for (int v = 0; v < vectors && bias != nullptr; ++v) {
      for (int i = 0; i < kTileHeight; ++i) sums[0][v][i] = Vector{} + bias[v * bias_stride + i];
    }
    Product::for_each_sum([&](auto sum) GRU_INLINED {
      if (bias == nullptr) {
        Tiles::template zero<sum.value>();
      } else {
        Tiles::template load<sum.value>(sums[0][sum.value % vectors], kTileRowBytes);
      }
    });
    product.add_all(K * size);
    Product::for_each_sum([&](auto sum) GRU_INLINED {
      Tiles::template store<sum.value>(sums[sum.value / vectors][sum.value % vectors], kTileRowBytes);
    });
    for (int v = 0; v < vectors; ++v) {
      for (int tile = 0; tile <= both.value; ++tile) {
        transpose<float>(sums[tile][v]);
        for (int64_t m = tile * kTileHeight; m < std::min<int64_t>(count, (tile + 1) * kTileHeight); ++m) {
          std::memcpy(out + (m * vectors + v) * kTileHeight, &sums[tile][v][m % kTileHeight], sizeof(Vector));
        }
      }
    }
  };
  count > kTileHeight ? run(std::true_type{}) : run(std::false_type{});
}

}  // namespace
}  // namespace gru_ext
