// Products of rows with a panel of packed weights: by tiles (tiles_body.h) where the instruction set has them for the
// operands, else by the micro-kernel of product_body.h.
//
// The words of a panel are the right operand of a tile's product as they lie: the tile's rows are words of K, a panel's
// width apart. Rows of x, of the state and of gate gradients are left operands as they lie. Of a K that is no whole
// number of tiles, the rest is copied and filled up with zeros: shorter tiles would need a configuration of their own,
// and what lies beyond K may be NaN, which a weight of zero does not cancel.
#pragma once

#include "cpu/kernels/lanes_body.h"
#include "cpu/kernels/pack_body.h"
#include "cpu/kernels/product_body.h"
#include "cpu/kernels/tiles_body.h"

// The back end of tiles_body.h that multiplies bfloat16; none where the file of the instruction set names none.
#if !defined(GRU_TILES)
#define GRU_TILES void
#endif

namespace gru_ext {
namespace {

template <typename operand_t>
using TilesOf = std::conditional_t<std::is_same_v<operand_t, c10::BFloat16>, GRU_TILES, void>;
template <typename operand_t>
constexpr bool kOnTiles = !std::is_void_v<TilesOf<operand_t>>;

// Most rows of a product with a panel of so many vectors: two tiles, which share the loads of the weights.
template <typename operand_t, int vectors>
constexpr int kMostRows = kOnTiles<operand_t> ? 2 * kTileHeight : kTileRows<vectors>;

constexpr int64_t kTileDepth = 32;  // values of K in a tile

// How the thread's tiles are configured: rows of each tile of sums, and vectors of a panel; 0 where they are not.
struct Configuration {
  int64_t height = 0;
  int vectors = 0;
};
inline Configuration& configuration() {
  static thread_local Configuration of_thread;
  return of_thread;
}

// Gives the thread's tiles back at the end of a part of its work: the system saves them at each switch until then.
template <typename operand_t>
struct TilesInUse {
  ~TilesInUse() {
    if constexpr (kOnTiles<operand_t>) {
      if (configuration().vectors > 0) TilesOf<operand_t>::release();
      configuration() = {};
    }
  }
};

// Rows of bfloat16 (count, K) times a panel (words, vectors, 16): one or two tiles of rows, each with a tile of sums for
// each vector. The first tiles are these sums; then comes the left operand, then as many right operands as are left.
template <typename Tiles, int vectors, bool both>
struct TileProduct {
  static constexpr int kRights = kTiles - 2 * vectors - 1 < vectors ? 1 : vectors;
  static constexpr int kLeft = kTiles - kRights - 1;
  static constexpr int64_t kPanelStride = vectors * kTileRowBytes;
  using Sums = std::make_integer_sequence<int, (both ? 2 : 1) * vectors>;
  template <int v>
  static constexpr int kRight = kTiles - kRights + v % kRights;

  const char* a[2];  // first row of each tile
  int64_t a_stride;  // bytes between rows
  const char* panel;

  template <Start start, int... sum>
  inline __attribute__((always_inline)) void begin(std::integer_sequence<int, sum...>, const float* bias,
                                                   int64_t bias_stride, float* const* out, int64_t out_stride) const {
    if constexpr (start == Start::zero) (Tiles::template zero<sum>(), ...);
    if constexpr (start == Start::bias) (Tiles::template load<sum>(bias + sum % vectors * bias_stride, 0), ...);
    if constexpr (start == Start::accumulate) {
      (Tiles::template load<sum>(out[sum / vectors] + sum % vectors * kTileHeight, out_stride), ...);
    }
  }

  template <int sum, bool loads>
  static inline __attribute__((always_inline)) void add(const char* b) {
    constexpr int v = sum % vectors;
    if constexpr (loads) Tiles::template load<kRight<v>>(b + v * kTileRowBytes, kPanelStride);
    Tiles::template multiply<sum, kLeft, kRight<v>>();
  }

  // A tile's depth of K. The second tile of rows takes the vectors in the opposite order: the last one is loaded still.
  static inline __attribute__((always_inline)) void add_depth(const char* a0, const char* a1, int64_t stride,
                                                              const char* b) {
    Tiles::template load<kLeft>(a0, stride);
    add<0, true>(b);
    add<1, true>(b);
    if constexpr (vectors == 3) add<2, true>(b);
    if constexpr (both) {
      constexpr bool again = kRights < vectors;
      Tiles::template load<kLeft>(a1, stride);
      if constexpr (vectors == 3) add<5, false>(b);
      add<vectors + 1, again && vectors == 3>(b);
      add<vectors, again>(b);
    }
  }

  // The last `values` of K, fewer than a tile has.
  __attribute__((noinline)) void add_rest(int64_t k, int64_t values, int64_t height) const {
    alignas(64) char left[2][kTileHeight][kTileRowBytes] = {};
    alignas(64) char right[kTileHeight][kPanelStride] = {};
    for (int tile = 0; tile <= both; ++tile) {
      for (int64_t row = 0; row < height; ++row)
        std::memcpy(left[tile][row], a[tile] + row * a_stride + 2 * k, 2 * values);
    }
    std::memcpy(right, panel + k / 2 * kPanelStride, (values + 1) / 2 * kPanelStride);
    add_depth(left[0][0], left[1][0], kTileRowBytes, right[0]);
  }

  inline __attribute__((always_inline)) void add_all(int64_t K, int64_t height) const {
    int64_t k = 0;
    for (; k + kTileDepth <= K; k += kTileDepth) {
      add_depth(a[0] + 2 * k, a[1] + 2 * k, a_stride, panel + k / 2 * kPanelStride);
    }
    if (k < K) add_rest(k, K - k, height);
  }

  template <int... sum>
  inline __attribute__((always_inline)) void end(std::integer_sequence<int, sum...>, float* const* out,
                                                 int64_t out_stride) const {
    (Tiles::template store<sum>(out[sum / vectors] + sum % vectors * kTileHeight, out_stride), ...);
  }
};

// The tiles for `count` rows: their height. Where these are two tiles, the second may have rows of the first again, so
// that a height serves several counts, and the products of a step need one configuration.
template <typename Tiles, int vectors>
int64_t configured_height(int64_t count) {
  Configuration& current = configuration();
  const int64_t least = count <= kTileHeight ? count : (count + 1) / 2;
  if (current.vectors == vectors && current.height >= least && current.height <= count) return current.height;
  current = {least, vectors};
  TileShapes shapes;
  for (int tile = 0; tile < kTiles; ++tile) {
    const bool is_right = tile > TileProduct<Tiles, vectors, true>::kLeft;
    shapes.set(tile, is_right ? kTileHeight : least, kTileRowBytes);
  }
  Tiles::configure(shapes);
  return least;
}

// product_rows by tiles. Both tiles of rows are begun before either is stored, as they may share rows of `out`.
template <typename Tiles, int vectors, Start start, bool both>
inline __attribute__((always_inline)) void product_of_tiles(int64_t height, int64_t second, const c10::BFloat16* a,
                                                            int64_t a_stride, const float* panel, int64_t K,
                                                            const float* bias, int64_t bias_stride, float* out,
                                                            int64_t out_stride) {
  using Product = TileProduct<Tiles, vectors, both>;
  const Product product{{reinterpret_cast<const char*>(a), reinterpret_cast<const char*>(a + second * a_stride)},
                        2 * a_stride,
                        reinterpret_cast<const char*>(panel)};
  float* const targets[2] = {out, out + second * out_stride};
  product.template begin<start>(typename Product::Sums{}, bias, bias_stride, targets, 4 * out_stride);
  product.add_all(K, height);
  product.end(typename Product::Sums{}, targets, 4 * out_stride);
}

// out (count, vectors * lanes) = a (count, K) times a panel of packed weights, for at most kMostRows rows; plus `bias`
// (vectors, lanes), whose vectors are bias_stride apart, or plus what out holds.
template <int vectors, Start start, typename T, typename operand_t>
inline __attribute__((always_inline)) void product_rows(int64_t count, const operand_t* a, int64_t a_stride,
                                                        const T* panel, int64_t K, const T* bias, int64_t bias_stride,
                                                        T* out, int64_t out_stride) {
  if constexpr (kOnTiles<operand_t>) {
    static_assert(VectorMath<T>::lanes == kTileHeight);
    using Tiles = TilesOf<operand_t>;
    const int64_t height = configured_height<Tiles, vectors>(count);
    const auto run = [&](auto both) __attribute__((always_inline)) {
      product_of_tiles<Tiles, vectors, start, both.value>(height, count - height, a, a_stride, panel, K, bias,
                                                          bias_stride, out, out_stride);
    };
    count > kTileHeight ? run(std::true_type{}) : run(std::false_type{});
  } else {
    vector_product_rows<vectors, start>(count, a, a_stride, panel, K, bias, bias_stride, out, out_stride);
  }
}

// Columns of rows of gate gradients, transposed: the left operand of the gradients of the weights. They are packed once
// for many panels.
template <typename T, typename operand_t>
class PackedColumns {
 public:
  static constexpr int kMost = kMostRows<operand_t, kPanelVectors>;

  // Columns [0, count) of K rows, at most kLongestSum, of which `row(k)` is one.
  template <typename Row>
  void pack(const Row& row, int64_t K, int64_t count) {
    if constexpr (kOnTiles<operand_t>) {
      transpose_words(row, K, count);
    } else {
      pack_panel<operand_t, kMost, values>(row, K, 0, count, columns_);
    }
  }

  // out (kMost, kPanelColumns), of which `count` rows are wanted: the columns times the words of a panel.
  void multiply(int64_t K, int64_t count, const T* panel, T* out) const {
    constexpr int width = kPanelColumns<T>;
    const T* no_bias = nullptr;
    if constexpr (kOnTiles<operand_t>) {
      product_rows<kPanelVectors, Start::zero>(count, columns_, kLongestSum, panel, K, no_bias, 0, out, width);
    } else {
      constexpr Layout layout{values, kMost * values};
      product_tile<T, operand_t, kMost, kPanelVectors, Start::zero>(
          columns_, panel, layout, (K + values - 1) / values * values, no_bias, 0, out, width);
    }
  }

 private:
  static constexpr int values = sizeof(T) / sizeof(operand_t);

  // (count, K): a vector has pairs of rows of each of 16 columns, a square of them is transposed.
  template <typename Row>
  void transpose_words(const Row& row, int64_t K, int64_t count) {
    using Math = VectorMath<float>;
    constexpr int lanes = Math::lanes;
    for (int64_t k = 0; k < K; k += kTileDepth) {
      for (int64_t first = 0; first < count; first += lanes) {
        const auto upper = [&](int64_t i) __attribute__((always_inline)) {
          if (k + i >= K) return typename Math::BitVector{};
          return (typename Math::BitVector)load<float>(row(k + i) + first, std::min<int64_t>(lanes, count - first));
        };
        typename Math::Vector square[lanes];
        for (int i = 0; i < lanes; ++i) square[i] = (typename Math::Vector)(upper(2 * i) >> 16 | upper(2 * i + 1));
        transpose<float>(square);
        for (int i = 0; i < lanes; ++i) {
          std::memcpy(columns_ + (first + i) * kLongestSum + k, &square[i], sizeof square[i]);
        }
      }
    }
  }

  alignas(64) operand_t columns_[kMost * kLongestSum];
};

}  // namespace
}  // namespace gru_ext
