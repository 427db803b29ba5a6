// Copies of the weights in the order in which the products read them.
#pragma once

#include <algorithm>
#include <array>
#include <utility>

#include "cpu/kernels/kernels.h"
#include "cpu/kernels/lanes_body.h"
#include "cpu/kernels/vector_math.h"

namespace gru_ext {
namespace {

// Interleaves the low (offset 0) or high (offset lanes / 2) halves of two vectors: a0 b0 a1 b1 ...
template <typename T, int offset, size_t... i>
GRU_INLINE VectorOf<T> interleave(VectorOf<T> a, VectorOf<T> b, std::index_sequence<i...>) {
  using Mask = typename VectorMath<T>::BitVector;
  constexpr int lanes = VectorMath<T>::lanes;
  return __builtin_shuffle(a, b, Mask{(i % 2 * lanes + i / 2 + offset)...});
}

// Of two vectors, the low (half 0) or high (half 1) halves of each 128 bits, interleaved by `width` lanes at a time.
// Processors do that in one short instruction, and not across 128 bits.
template <typename T, int width, int half, size_t... i>
GRU_INLINE VectorOf<T> interleave_in_blocks(VectorOf<T> a, VectorOf<T> b, std::index_sequence<i...>) {
  using Mask = typename VectorMath<T>::BitVector;
  constexpr int lanes = VectorMath<T>::lanes, block = 16 / sizeof(T);
  return __builtin_shuffle(a, b,
                           Mask{(i / width % 2 * lanes + i / block * block + half * block / 2 +
                                 i % block / (2 * width) * width + i % width)...});
}

// The even (odd 0) or odd blocks of 128 bits of two vectors, one after the other.
template <typename T, int odd, size_t... i>
GRU_INLINE VectorOf<T> every_other_block(VectorOf<T> a, VectorOf<T> b, std::index_sequence<i...>) {
  using Mask = typename VectorMath<T>::BitVector;
  constexpr int block = 16 / sizeof(T);
  return __builtin_shuffle(a, b, Mask{((2 * (i / block) + odd) * block + i % block)...});
}

// One step of `transpose`: pairs of rows that lie `span` apart meet, within blocks of 128 bits or block by block.
// Written without a loop, so that rows stay in registers.
template <typename T, int span, size_t... i>
GRU_INLINE void meet(VectorOf<T> (&rows)[VectorMath<T>::lanes], std::index_sequence<i...>) {
  constexpr int lanes = VectorMath<T>::lanes;
  constexpr auto all = std::make_index_sequence<lanes>();
  constexpr auto upper = [](size_t pair) { return pair / span * span + pair; };  // of the two
  const VectorOf<T> before[lanes] = {rows[i]..., rows[i + lanes / 2]...};
  if constexpr (span < 16 / static_cast<int>(sizeof(T))) {
    ((rows[2 * i] = interleave_in_blocks<T, span, 0>(before[upper(i)], before[upper(i) + span], all)), ...);
    ((rows[2 * i + 1] = interleave_in_blocks<T, span, 1>(before[upper(i)], before[upper(i) + span], all)), ...);
  } else {
    ((rows[upper(i)] = every_other_block<T, 0>(before[upper(i)], before[upper(i) + span], all)), ...);
    ((rows[upper(i) + span] = every_other_block<T, 1>(before[upper(i)], before[upper(i) + span], all)), ...);
  }
}

// Transposes a square of vectors.
template <typename T, int span = 1>
GRU_INLINE void transpose(VectorOf<T> (&rows)[VectorMath<T>::lanes]) {
  if constexpr (span < VectorMath<T>::lanes) {
    meet<T, span>(rows, std::make_index_sequence<VectorMath<T>::lanes / 2>());
    transpose<T, 2 * span>(rows);
  }
}

// `count` values as operands of products: a row of this stride.
template <typename acc_t, typename scalar_t, typename operand_t>
void to_operands(const scalar_t* source, int64_t count, operand_t* target, int64_t stride) {
  constexpr int64_t lanes = VectorMath<acc_t>::lanes;
  for (int64_t i = 0; i < count; i += lanes) {
    const int64_t part = std::min(lanes, count - i);
    store_operand<acc_t>(target + i, stride, load<acc_t>(source + i, part), part);
  }
}

// Words of a row that are read one after the other, before the next rows are: whole cache lines, which the processor
// then fetches ahead, of few rows at a time. Rows often lie a power of two apart, and so share a few places in the
// cache.
constexpr int64_t kWordsInARow = 64;

// A word of a row is a T, whatever values it is made of.
template <typename T, typename scalar_t, typename operand_t>
void pack_units(const scalar_t* weights, UnitVectors vectors, int64_t H, int64_t K, int64_t begin, int64_t end,
                void* packed) {
  using Vector = VectorOf<T>;
  constexpr int lanes = VectorMath<T>::lanes, parts = kParts<operand_t>;
  constexpr int64_t values = sizeof(T) / sizeof(operand_t), most = lanes * values;
  const int64_t words = (K + values - 1) / values, stride = vectors.count * lanes;
  const auto pack_square = [&](int64_t panel, int v, int64_t word) GRU_INLINED {
    const int64_t count = std::min(most, K - word * values);
    const int64_t columns = std::min<int64_t>(lanes, words - word);
    const int64_t unit = (panel * vectors.groups() + v * vectors.group_step) * lanes;
    const int64_t units = std::min<int64_t>(lanes, H - unit);
    const scalar_t* source = weights + (v * vectors.gate_step * H + unit) * K + word * values;
    T* const block = static_cast<T*>(packed) + (panel * words + word) * parts * vectors.count * lanes;
    if constexpr (!kByParts<scalar_t, operand_t>) {
      if (units == lanes && count == most) {  // loops of known length, so that rows stay in registers
        Vector square[lanes];
#pragma GCC unroll 16
        for (int i = 0; i < lanes; ++i) square[i] = load_words<T, operand_t>(source + i * K);
        transpose<T>(square);
#pragma GCC unroll 16
        for (int i = 0; i < lanes; ++i) std::memcpy(block + v * lanes + i * stride, &square[i], sizeof(Vector));
        return;
      }
    }
    Vector square[parts][lanes] = {};
    for (int64_t i = 0; i < units; ++i) {
      operand_t row[parts * most] = {};
      if constexpr (std::is_same_v<scalar_t, operand_t>) {
        std::copy_n(source + i * K, count, row);
      } else {
        to_operands<T>(source + i * K, count, row, parts * most);
      }
      for (int part = 0; part < parts; ++part) std::memcpy(&square[part][i], row + part * most, sizeof(Vector));
    }
    for (int part = 0; part < parts; ++part) {
      transpose<T>(square[part]);
      T* const target = block + (part * columns * vectors.count + v) * lanes;
      for (int64_t i = 0; i < columns; ++i) std::memcpy(target + i * stride, &square[part][i], sizeof(Vector));
    }
  };
  for (int64_t panel = begin; panel < end; ++panel) {
    for (int64_t first = 0; first < words; first += kWordsInARow) {
      for (int v = 0; v < vectors.count; ++v) {
        for (int64_t word = first; word < std::min(first + kWordsInARow, words); word += lanes) {
          pack_square(panel, v, word);
        }
      }
    }
  }
}

// Vectors of a panel.
constexpr int kPanelVectors = 2;
template <typename acc_t>
constexpr int kPanelColumns = kPanelVectors * VectorMath<acc_t>::lanes;

// A row that is the product of two, element by element; zero where either is null.
template <typename scalar_t>
struct ProductOfRows {
  using acc_t = acc_type<scalar_t>;
  const scalar_t *a, *b;
  explicit operator bool() const { return a != nullptr && b != nullptr; }
  acc_t operator[](int64_t i) const { return static_cast<acc_t>(a[i]) * static_cast<acc_t>(b[i]); }
};

// The rows of the words that begin with row k of K, of which `row(k)` is one. Null stands for zeros, and for what lies
// beyond K.
template <int values, typename Row>
GRU_INLINE auto rows_of_words(const Row& row, int64_t K, int64_t k) {
  std::array<decltype(row(k)), values> rows{};
  for (int v = 0; v < std::min<int64_t>(values, K - k); ++v) rows[v] = row(k + v);
  return rows;
}

// Whether vectors of words can be loaded from these rows.
template <typename Source, size_t values>
GRU_INLINE bool are_there(const std::array<Source, values>& rows) {
  if constexpr (!std::is_pointer_v<Source>) return false;
  return std::all_of(rows.begin(), rows.end(), [](const Source& row) { return static_cast<bool>(row); });
}

// Columns of such rows, from `first` on, -> `width` words, each of which holds the values of a column. `width`: whole
// vectors.
template <typename T, int width, typename operand_t, typename Source, size_t values>
GRU_INLINE void pack_vectors(const std::array<Source, values>& rows, int64_t first, operand_t* packed) {
  constexpr int lanes = VectorMath<T>::lanes;
  static_assert(width % lanes == 0);
  if constexpr (std::is_pointer_v<Source>) {
    for (int c = 0; c < width; c += lanes) {
      VectorOf<T> words = load<T>(rows[0] + first + c, lanes);
      if constexpr (values == 2) {  // as a float, bfloat16 is the upper half of a word
        using Bits = typename VectorMath<T>::BitVector;
        words = (VectorOf<T>)((Bits)words >> 16 | (Bits)load<T>(rows[1] + first + c, lanes));
      }
      std::memcpy(packed + c * values, &words, sizeof words);
    }
  }
}

// `count` of the columns, of any width and whatever the rows are; words beyond them are zero.
template <int width, typename operand_t, typename Source, size_t values>
GRU_INLINE void pack_words(const std::array<Source, values>& rows, int64_t first, int64_t count, operand_t* packed) {
  if constexpr (values == 2 && std::is_same_v<Source, const operand_t*>) {
    // Two halves of a word at once: value by value, the compiler stores two bytes at a time.
    if (count == width && are_there(rows)) {
      for (int c = 0; c < width; ++c) {
        uint16_t halves[2];
        std::memcpy(&halves[0], rows[0] + first + c, sizeof halves[0]);
        std::memcpy(&halves[1], rows[1] + first + c, sizeof halves[1]);
        const uint32_t word = halves[0] | uint32_t{halves[1]} << 16;
        std::memcpy(packed + 2 * c, &word, sizeof word);
      }
      return;
    }
  }
  for (size_t v = 0; v < values; ++v) {
    if (!rows[v]) {
      for (int c = 0; c < width; ++c) packed[c * values + v] = operand_t(0);
    } else if (count == width) {
      for (int c = 0; c < width; ++c) packed[c * values + v] = static_cast<operand_t>(rows[v][first + c]);
    } else {
      for (int c = 0; c < width; ++c) {
        packed[c * values + v] = c < count ? static_cast<operand_t>(rows[v][first + c]) : operand_t(0);
      }
    }
  }
}

// The same of float32 by parts. `part_stride`: values between the words of two parts.
template <typename operand_t, int width, typename Row>
GRU_INLINE void pack_words_by_parts(const Row& row, int64_t K, int64_t k, int64_t first, int64_t count,
                                    int64_t part_stride, operand_t* packed) {
  using Math = VectorMath<float>;
  float columns[2][width] = {};
  for (int v = 0; v < 2; ++v) {
    const auto source = k + v < K ? row(k + v) : decltype(row(k)){};
    for (int64_t c = 0; source && c < count; ++c) columns[v][c] = source[first + c];
  }
  for (int c = 0; c < width; c += Math::lanes) {
    Math::Vector low = load<float>(columns[0] + c, Math::lanes), high = load<float>(columns[1] + c, Math::lanes);
    for (int part = 0; part < kParts<operand_t>; ++part) {
      const Math::Vector low_part = nearest_bfloat16(low), high_part = nearest_bfloat16(high);
      const Math::BitVector words = (Math::BitVector)low_part >> 16 | (Math::BitVector)high_part;
      std::memcpy(packed + part * part_stride + 2 * c, &words, sizeof words);
      low -= low_part;
      high -= high_part;
    }
  }
}

// Columns [first, first + count) of K rows -> (words, width): a word holds as many consecutive values of a column as
// fit.
template <typename operand_t, int width, int values, typename Row>
GRU_INLINE void pack_panel(const Row& row, int64_t K, int64_t first, int64_t count, operand_t* packed) {
  for (int64_t k = 0; k < K; k += values, packed += width * values) {
    pack_words<width>(rows_of_words<values>(row, K, k), first, count, packed);
  }
}

// Panels that take their part of a row at a time: rows that lie pages apart are then read in runs that the processor
// fetches ahead, and not a cache line at a time.
constexpr int64_t kPanelsAtOnce = 8;

// The rows [first_row, last_row), whole words or up to the last row, of the panels [begin, end) of K rows of `columns`
// values.
template <typename scalar_t, typename operand_t, typename Row>
GRU_INLINE void pack_panels(const Row& row, int64_t K, int64_t columns, int64_t first_row, int64_t last_row,
                            int64_t begin, int64_t end, acc_type<scalar_t>* packed) {
  using T = acc_type<scalar_t>;
  constexpr int width = kPanelColumns<T>;
  constexpr int values = sizeof(T) / sizeof(operand_t);
  const int64_t words = (K + values - 1) / values;
  const int64_t size = words * kParts<operand_t> * width;
  for (int64_t first = begin; first < end; first += kPanelsAtOnce) {
    const int64_t last = std::min(first + kPanelsAtOnce, end), whole = std::min(last, columns / width);
    for (int64_t k = first_row; k < last_row; k += values) {
      auto* target = reinterpret_cast<operand_t*>(packed + first * size + place_of_word<operand_t>(k / values) * width);
      const auto count_of = [&](int64_t panel) { return std::min<int64_t>(width, columns - panel * width); };
      if constexpr (kByParts<scalar_t, operand_t>) {
        const int64_t part_stride = words_together(k / values, words) * width * values;
        for (int64_t panel = first; panel < last; ++panel, target += size * values) {
          pack_words_by_parts<operand_t, width>(row, K, k, panel * width, count_of(panel), part_stride, target);
        }
      } else {
        const auto rows = rows_of_words<values>(row, K, k);
        int64_t panel = first;
        if (are_there(rows)) {
          for (; panel < whole; ++panel, target += size * values) {
            pack_vectors<T, width>(rows, panel * width, target);
          }
        }
        for (; panel < last; ++panel, target += size * values) {
          pack_words<width>(rows, panel * width, count_of(panel), target);
        }
      }
    }
  }
}

template <typename scalar_t, typename operand_t>
void pack_columns(const scalar_t* weights, int64_t K, int64_t columns, int64_t first_row, int64_t begin, int64_t end,
                  acc_type<scalar_t>* packed) {
  const auto row = [=](int64_t k) {
    return weights + (k + first_row < K ? k + first_row : k + first_row - K) * columns;
  };
  pack_panels<scalar_t, operand_t>(row, K, columns, /*first_row=*/0, K, begin, end, packed);
}

}  // namespace
}  // namespace gru_ext
