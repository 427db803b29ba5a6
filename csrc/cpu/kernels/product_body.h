// Products of a few rows with a panel of packed weights: the micro-kernel that all the time goes into, but for what
// panel_product_body.h gives to a matrix unit.
//
// A tile is `rows` rows by `vectors` vectors of columns, accumulated in registers over K: each step of K loads the
// panel's vectors once, broadcasts one value of each row and multiplies all pairs. Tiles of few rows would wait for the
// latency of their own additions, so they keep several partial sums, where the bits may depend on the rows of a tile.
#pragma once

#include "cpu/kernels/lanes_body.h"
#include "cpu/kernels/pack_body.h"
#include "cpu/kernels/vector_math.h"

namespace gru_ext {
namespace {

// How many accumulators a tile may use: 3/4 of the registers, the rest hold operands.
constexpr int kAccumulators = GRU_VECTOR_REGISTERS * 3 / 4;
// Independent additions that hide the latency of a fused multiply-add on two units.
constexpr int kIndependentSums = 8;
// Most rows of a tile that keeps several partial sums of each.
template <int vectors>
constexpr int kRowsOfSeveralSums = (kIndependentSums - 1) / vectors;

enum class Start { zero, bias, accumulate };

// Bytes of a panel between what a tile multiplies and what it asks for meanwhile, where the weights are far: left
// alone, the processor fetches too late for tiles of many rows. For those of few, of which it sees more ahead, to ask
// is slower.
constexpr int64_t kAskedAhead = 8192;
template <int rows, int vectors>
constexpr bool kAsksAhead = 3 * rows * vectors >= 2 * kAccumulators;

// A word of a row times a vector of words of the panel, added to a vector of sums.
template <typename T, typename operand_t>
struct Multiply {
  using Vector = VectorOf<T>;
  static constexpr int64_t values = 1;  // of a row in a word
  static GRU_INLINE Vector broadcast(const T* word) { return *word - Vector{}; }
  static GRU_INLINE void add(Vector& sum, Vector word, Vector column) { sum += word * column; }
};

#if defined(GRU_MULTIPLIES_BF16)
// Words of two bfloat16, whose products are summed in fp32.
template <>
struct Multiply<float, c10::BFloat16> {
  using Vector = VectorOf<float>;
  static constexpr int64_t values = 2;
  static GRU_INLINE Vector broadcast(const c10::BFloat16* word) {
    int bits;
    std::memcpy(&bits, word, sizeof bits);
    return (Vector)_mm512_set1_epi32(bits);
  }
  static GRU_INLINE void add(Vector& sum, Vector word, Vector column) {
    sum = _mm512_dpbf16_ps(sum, (__m512bh)word, (__m512bh)column);
  }
};
#endif

// Where the left operand of a product lies. A word of it is `Multiply::values` consecutive values along K.
struct Layout {
  int64_t row_stride;   // elements between rows
  int64_t word_stride;  // elements between words of a row
};

// out (rows, vectors * lanes) = a (rows, K) times b (words, vectors * lanes); plus `bias` (vectors, lanes), whose
// vectors are bias_stride apart, or plus what out holds. `asks`: for words of b ahead. `one_chain`: see FwdChunk.
template <typename T, typename operand_t, int rows, int vectors, Start start, bool asks, bool one_chain = false>
GRU_INLINE void product_tile(const operand_t* __restrict a, const T* __restrict b, Layout layout, int64_t K,
                             const T* __restrict bias, int64_t bias_stride, T* __restrict out, int64_t out_stride) {
  using Vector = VectorOf<T>;
  using Word = Multiply<T, operand_t>;
  constexpr int lanes = VectorMath<T>::lanes;
  constexpr int fit = kAccumulators / (rows * vectors);
  constexpr int enough = (kIndependentSums + rows * vectors - 1) / (rows * vectors);
  constexpr int sums = one_chain || fit < 1 ? 1 : fit < enough ? fit : enough;
  Vector sum[sums][rows][vectors] = {};
  const auto add_word = [&](int s, const operand_t* words, int64_t stride, int64_t w) GRU_INLINED {
    Vector column[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) std::memcpy(&column[v], b + (w * vectors + v) * lanes, sizeof(Vector));
    if constexpr (asks) {
      const char* const ahead = reinterpret_cast<const char*>(b + w * vectors * lanes) + kAskedAhead;
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) __builtin_prefetch(ahead + v * sizeof(Vector), 0, 2);
    }
#pragma GCC unroll 16
    for (int m = 0; m < rows; ++m) {
      const Vector word = Word::broadcast(words + m * stride);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) Word::add(sum[s][m][v], word, column[v]);
    }
  };
  const int64_t whole = K / Word::values;
  int64_t w = 0;
  for (; w + sums <= whole; w += sums) {
#pragma GCC unroll 16
    for (int s = 0; s < sums; ++s) add_word(s, a + (w + s) * layout.word_stride, layout.row_stride, w + s);
  }
  for (; w < whole; ++w) add_word(0, a + w * layout.word_stride, layout.row_stride, w);
  if constexpr (Word::values > 1) {
    if (K % Word::values != 0) {  // the last word of a row may not reach into the next row
      operand_t last[rows][Word::values] = {};
      for (int m = 0; m < rows; ++m) last[m][0] = a[m * layout.row_stride + whole * layout.word_stride];
      add_word(0, last[0], Word::values, whole);
    }
  }
  // What the product is added to comes last: the partial sums are then rounded at their own magnitude, not at its.
#pragma GCC unroll 16
  for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
#pragma GCC unroll 16
      for (int s = 1; s < sums; ++s) sum[0][m][v] += sum[s][m][v];
      T* target = out + m * out_stride + v * lanes;
      if constexpr (start != Start::zero) {
        Vector initial;
        std::memcpy(&initial, start == Start::bias ? bias + v * bias_stride : target, sizeof initial);
        sum[0][m][v] += initial;
      }
      std::memcpy(target, &sum[0][m][v], sizeof(Vector));
    }
  }
}

template <int vectors>
constexpr int kTileRows = kAccumulators / vectors;

// product_tile for a number of rows known only at run time, at most kTileRows<vectors>, with K rows of a panel of
// packed weights, at most kLongestSum. `asks`: for weights ahead, where the tile is one that does.
template <int vectors, Start start, bool asks, typename T, typename operand_t, int rows = kTileRows<vectors>,
          bool one_chain = false>
__attribute__((noinline)) void vector_product_rows(int64_t count, const operand_t* a, int64_t a_stride, const T* panel,
                                                   int64_t K, const T* bias, int64_t bias_stride, T* out,
                                                   int64_t out_stride) {
  if (count == rows) {
    product_tile<T, operand_t, rows, vectors, start, asks && kAsksAhead<rows, vectors>, one_chain>(
        a, panel, Layout{a_stride, Multiply<T, operand_t>::values}, K, bias, bias_stride, out, out_stride);
  } else if constexpr (rows > 1) {
    vector_product_rows<vectors, start, asks && kAsksAhead<rows - 1, vectors>, T, operand_t, rows - 1, one_chain>(
        count, a, a_stride, panel, K, bias, bias_stride, out, out_stride);
  }
}

// The sums of the lanes of each vector, in the order of the vectors. As in `transpose`, halves of the rows interleave.
template <typename T>
GRU_INLINE VectorOf<T> lane_sums(VectorOf<T> (&rows)[VectorMath<T>::lanes]) {
  constexpr int lanes = VectorMath<T>::lanes;
  constexpr auto all = std::make_index_sequence<lanes>();
#pragma GCC unroll 4
  for (int half = lanes / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) {
      rows[i] = interleave<T, 0>(rows[i], rows[i + half], all) + interleave<T, lanes / 2>(rows[i], rows[i + half], all);
    }
  }
  return rows[0];
}

template <typename T>
GRU_INLINE VectorOf<T> and_bits(VectorOf<T> a, VectorOf<T> b) {
  using Math = VectorMath<T>;
  return (typename Math::Vector)((typename Math::BitVector)a & (typename Math::BitVector)b);
}

// A vector whose last `count` bytes have all bits set, the others none.
template <typename T>
GRU_INLINE VectorOf<T> last_bytes(int64_t count) {
  unsigned char bytes[2 * GRU_VECTOR_BYTES] = {};
  std::memset(bytes + GRU_VECTOR_BYTES, 0xff, GRU_VECTOR_BYTES);
  VectorOf<T> result;
  std::memcpy(&result, bytes + count, sizeof result);
  return result;
}

// vector_product_rows for weights that are not packed: out (rows, vectors, lanes) = a (rows, K) times those rows of
// weights (gates of H units, K) that `of` says, from `unit` on, `count` of each vector; plus the bias. Vectors run
// along K: of each weight row and each row of a comes a vector of partial sums, which are added up across lanes at the
// end. Weights of a half precision are converted as they are read. For calls of so few rows that packing would cost
// more than that.
template <typename T, int vectors, typename operand_t, typename scalar_t, int rows = kTileRows<vectors>>
__attribute__((noinline)) void unpacked_product_rows(int64_t row_count, const operand_t* a, int64_t a_stride,
                                                     const scalar_t* weights, UnitVectors of, int64_t H, int64_t K,
                                                     int64_t unit, int64_t count, const T* bias, int64_t bias_stride,
                                                     T* out) {
  if (row_count < rows) {
    if constexpr (rows > 1) {
      unpacked_product_rows<T, vectors, operand_t, scalar_t, rows - 1>(row_count, a, a_stride, weights, of, H, K, unit,
                                                                       count, bias, bias_stride, out);
    }
    return;
  }
  using Vector = VectorOf<T>;
  constexpr int lanes = VectorMath<T>::lanes;
  constexpr int64_t step = lanes * Multiply<T, operand_t>::values;
  constexpr int at_once = std::clamp(kTileRows<vectors> / rows, 1, 4);  // units
  Vector partial[rows][vectors][lanes];
  if (count < lanes) std::memset(partial, 0, sizeof partial);
  // The last vectors of rows that are no whole number of them end where the rows end: what the vectors before have
  // multiplied already is masked.
  const Vector mask = last_bytes<T>(K % step * sizeof(operand_t));
  for (int64_t first = 0; first < count; first += at_once) {
    const scalar_t* w[vectors][at_once];
    for (int i = 0; i < at_once; ++i) {
      for (int v = 0; v < vectors; ++v) {
        const int64_t of_vector = unit + v * of.group_step * lanes + std::min(first + i, count - 1);
        w[v][i] = weights + (v * of.gate_step * H + std::min(of_vector, H - 1)) * K;
      }
    }
    Vector sum[rows][vectors][at_once] = {};
    int64_t k = 0;
    const auto add = [&](const auto& load_vector) GRU_INLINED {
      Vector left[rows];
#pragma GCC unroll 16
      for (int m = 0; m < rows; ++m) left[m] = load_vector(a + m * a_stride);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
#pragma GCC unroll 4
        for (int i = 0; i < at_once; ++i) {
          const Vector right = load_vector(w[v][i]);
#pragma GCC unroll 16
          for (int m = 0; m < rows; ++m) Multiply<T, operand_t>::add(sum[m][v][i], left[m], right);
        }
      }
    };
    for (; k + step <= K; k += step) {
      add([&](const auto* source) GRU_INLINED { return load_words<T, operand_t>(source + k); });
    }
    if (k < K && K >= step) {
      add([&](const auto* source)
              GRU_INLINED { return and_bits<T>(load_words<T, operand_t>(source + K - step), mask); });
    } else if (k < K) {
      add([&](const auto* source) GRU_INLINED {
        std::decay_t<decltype(*source)> part[step] = {};
        std::memcpy(part, source, K * sizeof *part);
        return load_words<T, operand_t>(part);
      });
    }
    for (int m = 0; m < rows; ++m) {
      for (int v = 0; v < vectors; ++v) {
        for (int i = 0; i < at_once && first + i < count; ++i) partial[m][v][first + i] = sum[m][v][i];
      }
    }
  }
  for (int m = 0; m < rows; ++m) {
    for (int v = 0; v < vectors; ++v) {
      Vector total = lane_sums<T>(partial[m][v]);
      if (bias != nullptr) total += load<T>(bias + v * bias_stride, lanes);
      store<T>(out + (m * vectors + v) * lanes, total, lanes);
    }
  }
}

}  // namespace
}  // namespace gru_ext
