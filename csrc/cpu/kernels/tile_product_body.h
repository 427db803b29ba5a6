// Products of rows with a panel of packed weights by tiles (tiles_body.h): rows (count, words) times words
// (words, vectors, 16). A word is two bfloat16 or four int8, which lie next to each other along K.
//
// The words of a panel are the right operand of a tile's product as they lie: the tile's rows are words of K, a panel's
// width apart. Rows of x, of the state and of gate gradients are left operands as they lie. Of a K that is no whole
// number of tiles, the rest is copied and filled up with zeros: shorter tiles would need a configuration of their own,
// and what lies beyond K may be NaN, which a weight of zero does not cancel.
#pragma once

#include "cpu/kernels/tiles_body.h"

// The back end of tiles_body.h; none where the file of the instruction set names none.
#if !defined(GRU_TILES)
#define GRU_TILES void
#endif

namespace gru_ext {
namespace {

constexpr int kRowsOfTiles =
    2 * kTileHeight;  // most rows of a product: two tiles, which share the loads of the weights

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
template <typename Tiles>
struct TilesInUse {
  ~TilesInUse() {
    if constexpr (!std::is_void_v<Tiles>) {
      if (configuration().vectors > 0) Tiles::release();
      configuration() = {};
    }
  }
};

// Calls product(left, right) for the products of parts that are taken.
template <int parts, typename Product>
GRU_INLINE void for_each_product(const Product& product) {
#pragma GCC unroll 4
  for (int left = 0; left < parts; ++left) {
#pragma GCC unroll 4
    for (int right = 0; left + right < parts; ++right) product(left, right);
  }
}

// The registers of a product of one or two tiles of rows with the weights of some vectors, and a depth of it. The first
// tiles are sums, for each tile of rows one for each vector; then come the rows, then as many weights as are left.
// T: bfloat16, a part, or int8_t. `turned`: whether the weights are the left operand, and not the rows.
template <typename Tiles, typename T, int vectors, bool both, bool turned>
struct TileDepth {
  static constexpr int kWeightTiles = kTiles - 2 * vectors - 1 < vectors ? 1 : vectors;
  static constexpr int kRows = kTiles - kWeightTiles - 1;
  template <int v>
  static constexpr int kWeights = kTiles - kWeightTiles + v % kWeightTiles;

  template <typename Use, int... sum>
  static GRU_INLINE void for_each_sum(const Use& use, std::integer_sequence<int, sum...>) {
    (use(std::integral_constant<int, sum>{}), ...);
  }
  template <typename Use>
  static GRU_INLINE void for_each_sum(const Use& use) {
    for_each_sum(use, std::make_integer_sequence<int, (both ? 2 : 1) * vectors>{});
  }

  template <int sum, bool loads>
  static GRU_INLINE void add(const char* weights, int64_t vector_stride, int64_t stride) {
    constexpr int v = sum % vectors;
    if constexpr (loads) Tiles::template load<kWeights<v>>(weights + v * vector_stride, stride);
    if constexpr (std::is_same_v<T, int8_t>) {
      Tiles::template multiply_int8<sum, kRows, kWeights<v>>();
    } else if constexpr (turned) {
      Tiles::template multiply_bf16<sum, kWeights<v>, kRows>();
    } else {
      Tiles::template multiply_bf16<sum, kRows, kWeights<v>>();
    }
  }

  // A tile's depth of K. Strides are in bytes: of the rows of tiles, and between the weights of vectors. The second
  // tile of rows takes the vectors in the opposite order: the last one is loaded still.
  static GRU_INLINE void add_depth(const char* rows, const char* second_rows, int64_t rows_stride, const char* b,
                                   int64_t vector_stride, int64_t stride) {
    Tiles::template load<kRows>(rows, rows_stride);
    add<0, true>(b, vector_stride, stride);
    add<1, true>(b, vector_stride, stride);
    if constexpr (vectors == 3) add<2, true>(b, vector_stride, stride);
    if constexpr (both) {
      constexpr bool again = kWeightTiles < vectors;
      Tiles::template load<kRows>(second_rows, rows_stride);
      if constexpr (vectors == 3) add<5, false>(b, vector_stride, stride);
      add<vectors + 1, again && vectors == 3>(b, vector_stride, stride);
      add<vectors, again>(b, vector_stride, stride);
    }
  }
};

constexpr auto kNothingBetween = [](int64_t /*done*/, int64_t /*all*/) {};

// Rows as they lie, times a panel.
template <typename Tiles, typename T, int vectors, bool both>
struct TileProduct : TileDepth<Tiles, T, vectors, both, /*turned=*/false> {
  using Depth = TileDepth<Tiles, T, vectors, both, false>;
  static constexpr int64_t kPanelStride = vectors * kTileRowBytes;
  static_assert(kPartWords == kTileHeight);

  const char* a[2];  // first row of each tile
  int64_t a_stride;  // bytes between rows, likewise out_stride
  const char* panel;
  char* out[2];
  int64_t out_stride;

  char* place(int sum) const { return out[sum / vectors] + sum % vectors * kTileRowBytes; }

  // From zero.
  void begin() const {
    Depth::for_each_sum([](auto sum) { Tiles::template zero<sum.value>(); });
  }
  // From a row, whose vectors are so many bytes apart.
  void begin(const float* row, int64_t stride) const {
    const char* const vector = reinterpret_cast<const char*>(row);
    Depth::for_each_sum([&](auto sum) { Tiles::template load<sum.value>(vector + sum.value % vectors * stride, 0); });
  }
  // From what `out` holds.
  void begin_with_results() const {
    Depth::for_each_sum([&](auto sum) { Tiles::template load<sum.value>(place(sum.value), out_stride); });
  }

  // The last bytes of the rows, fewer than a tile has: those from `done` on.
  __attribute__((noinline)) void add_rest(int64_t done, int64_t bytes, int64_t height) const {
    alignas(64) char left[2][kTileHeight][kTileRowBytes] = {};
    alignas(64) char right[kTileHeight][kPanelStride] = {};
    const int64_t words = (bytes + 3) / 4;
    for_each_product<kParts<T>>([&](int left_part, int right_part) GRU_INLINED {
      for (int tile = 0; tile <= both; ++tile) {
        for (int64_t row = 0; row < height; ++row) {
          std::memcpy(left[tile][row], a[tile] + left_part * part_stride() + row * a_stride + done, bytes);
        }
      }
      std::memcpy(right, word_of_panel(done / 4) + right_part * words * kPanelStride, words * kPanelStride);
      Depth::add_depth(left[0][0], left[1][0], kTileRowBytes, right[0], kTileRowBytes, kPanelStride);
    });
  }

  int64_t part_stride() const { return a_stride / kParts<T>; }
  const char* word_of_panel(int64_t word) const { return panel + word * kParts<T> * kPanelStride; }

  // Calls `between(done, bytes)` between two depths.
  template <typename Between>
  GRU_INLINE void add_all(int64_t bytes, int64_t height, const Between& between) const {
    int64_t done = 0;
    for (; done + kTileRowBytes <= bytes; done += kTileRowBytes) {
      if (done > 0) between(done, bytes);
      for_each_product<kParts<T>>([&](int left_part, int right_part) GRU_INLINED {
        const int64_t first = done + left_part * part_stride();
        Depth::add_depth(a[0] + first, a[1] + first, a_stride,
                         word_of_panel(done / 4) + right_part * kPartWords * kPanelStride, kTileRowBytes, kPanelStride);
      });
    }
    if (done == bytes) return;
    if (done > 0) between(done, bytes);
    add_rest(done, bytes - done, height);
  }

  void end() const {
    Depth::for_each_sum([&](auto sum) { Tiles::template store<sum.value>(place(sum.value), out_stride); });
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
    const bool has_weights = tile > TileProduct<Tiles, int8_t, vectors, true>::kRows;
    shapes.set(tile, has_weights ? kTileHeight : least, kTileRowBytes);
  }
  Tiles::configure(shapes);
  return least;
}

// out (count, vectors, 16) = a (count, rows of so many bytes) times a panel, for at most kRowsOfTiles rows; strides are
// in bytes. `begin` begins a TileProduct: both tiles of rows before either is stored, as they may share rows of `out`.
// `between(done, bytes)` comes between the products of two depths.
template <typename Tiles, typename T, int vectors, typename Begin, typename Between>
GRU_INLINE void multiply_tiles(int64_t count, const void* a, int64_t a_stride, const void* panel, int64_t bytes,
                               void* out, int64_t out_stride, const Begin& begin, const Between& between) {
  const int64_t height = configured_height<Tiles, vectors>(count), second = count - height;
  const auto run = [&](auto both) GRU_INLINED {
    const char* const rows = static_cast<const char*>(a);
    char* const results = static_cast<char*>(out);
    const TileProduct<Tiles, T, vectors, both.value> product{{},
                                                             {rows, rows + second * a_stride},
                                                             a_stride,
                                                             static_cast<const char*>(panel),
                                                             {results, results + second * out_stride},
                                                             out_stride};
    begin(product);
    product.add_all(bytes, height, between);
    product.end();
  };
  count > kTileHeight ? run(std::true_type{}) : run(std::false_type{});
}

}  // namespace
}  // namespace gru_ext
