// The recurrence with weights of int8, for one thread of several: quantisation of rows, products, gates.
//
// Threads split the hidden units by groups. Each quantises for itself the state that all of them wrote in the step
// before, which costs little beside its products, so that a step needs one wait as in recurrence_body.h. The sums of
// products are exact: results do not depend on the number of threads.
//
// Each int8_*.cpp selects an instruction set, defines GRU_VECTOR_BYTES, includes this file last, and instantiates
// `int8_chunk` with a type `Dot` of its own:
//   rows                    rows of a tile, few enough for three vectors of sums each to stay in registers
//   zero                    the byte that stands for 0: 128 where the products want unsigned bytes, else 0
//   store_rounded(target, value)  writes each lane, rounded to the nearest integer, plus `zero`, as a byte
// and, where it defines no GRU_TILES, which have the products then:
//   Word                    four bytes of a row, in each lane
//   broadcast(bytes)        loads a Word
//   add(sum, word, column)  adds the products of four bytes to each lane of `sum`
#pragma once

#include "cell/cell.h"
#include "cpu/int8/int8_kernels.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/lanes_body.h"
#include "cpu/kernels/row_tiles.h"
#include "cpu/kernels/tile_product_body.h"
#include "cpu/step_barrier.h"

namespace gru_ext {
namespace {

typedef int32_t IntVector __attribute__((vector_size(GRU_VECTOR_BYTES)));
constexpr int kLanes = GRU_VECTOR_BYTES / sizeof(int32_t);
// A vector holds the whole of a group's units for one gate, or one of kParts parts of them.
constexpr int kParts = kInt8Units / kLanes;
// Elements of packed weights from one word of columns to the next.
constexpr int64_t kWordStride = 3 * kInt8Units;

GRU_INLINE IntVector load_ints(const int32_t* source) {
  IntVector result;
  std::memcpy(&result, source, sizeof result);
  return result;
}

// The lanes of `value` in the order of i ^ distance.
template <int distance, size_t... i>
GRU_INLINE IntVector exchange_lanes(IntVector value, std::index_sequence<i...>) {
  return __builtin_shuffle(value, IntVector{(i ^ distance)...});
}

template <int distance = kLanes / 2>
GRU_INLINE int32_t largest_lane(IntVector value) {
  const IntVector other = exchange_lanes<distance>(value, std::make_index_sequence<kLanes>());
  const IntVector larger = value > other ? value : other;
  if constexpr (distance > 1) return largest_lane<distance / 2>(larger);
  return larger[0];
}

// Rows below this magnitude count as zero: 127 / magnitude would overflow.
constexpr float kSmallestRow = 1e-36f;

// Row of K floats to bytes: x * (127 / largest magnitude) rounded to the nearest integer; null stands for zeros.
// Writes whole vectors, at most int8_stride(K) bytes. Returns the scale: the largest magnitude / 127, or NaN where an
// element is not finite.
template <typename Dot>
GRU_INLINE float quantize_row(const float* source, int64_t K, uint8_t* target) {
  const int64_t whole = K / kLanes * kLanes;

  // Magnitudes compare as their bits do, infinity and NaN as the largest.
  int32_t bits = 0;
  if (source != nullptr) {
    const auto magnitude = [&](int64_t k, int64_t count)
                               GRU_INLINED { return (IntVector)load<float>(source + k, count) & 0x7fffffff; };
    IntVector largest{};
    for (int64_t k = 0; k < whole; k += kLanes) {
      const IntVector here = magnitude(k, kLanes);
      largest = here > largest ? here : largest;
    }
    if (whole < K) {
      const IntVector here = magnitude(whole, K - whole);
      largest = here > largest ? here : largest;
    }
    bits = largest_lane(largest);
  }
  float magnitude;
  std::memcpy(&magnitude, &bits, sizeof magnitude);
  const bool finite = bits < 0x7f800000;
  if (!finite || magnitude < kSmallestRow) {
    std::memset(target, Dot::zero, int8_stride(K));
    return finite ? 0.0f : __builtin_nanf("");
  }

  const float inverse = 127.0f / magnitude;
  const auto convert = [&](int64_t k, int64_t count)
                           GRU_INLINED { Dot::store_rounded(target + k, load<float>(source + k, count) * inverse); };
  for (int64_t k = 0; k < whole; k += kLanes) convert(k, kLanes);
  if (whole < K) convert(whole, K - whole);
  return magnitude / 127.0f;
}

// out (rows, 3, lanes) = bytes (rows, K), less `zero`, times a part of a panel (1 + words, 3, 16) of packed weights.
template <typename Dot, int rows>
GRU_INLINE void product_tile(const uint8_t* __restrict bytes, int64_t stride, const int32_t* __restrict panel,
                             int64_t words, IntVector (*__restrict out)[3]) {
  // Tiles of few rows would wait for the latency of their own additions: they keep several partial sums.
  constexpr int fit = Dot::rows / rows;
  constexpr int enough = (3 + rows - 1) / rows;
  constexpr int sums = fit < enough ? fit : enough;
  IntVector sum[sums][rows][3] = {};
  const auto add_word = [&](int s, int64_t w) GRU_INLINED {
    IntVector column[3];
#pragma GCC unroll 3
    for (int gate = 0; gate < 3; ++gate) column[gate] = load_ints(panel + (1 + w) * kWordStride + gate * kInt8Units);
#pragma GCC unroll 8
    for (int m = 0; m < rows; ++m) {
      const typename Dot::Word word = Dot::broadcast(bytes + m * stride + w * 4);
#pragma GCC unroll 3
      for (int gate = 0; gate < 3; ++gate) Dot::add(sum[s][m][gate], word, column[gate]);
    }
  };
  int64_t w = 0;
  for (; w + sums <= words; w += sums) {
#pragma GCC unroll 4
    for (int s = 0; s < sums; ++s) add_word(s, w + s);
  }
  for (; w < words; ++w) add_word(0, w);
#pragma GCC unroll 3
  for (int gate = 0; gate < 3; ++gate) {
    const IntVector offset = load_ints(panel + gate * kInt8Units) * Dot::zero;
#pragma GCC unroll 8
    for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 4
      for (int s = 1; s < sums; ++s) sum[0][m][gate] += sum[s][m][gate];
      out[m][gate] = sum[0][m][gate] - offset;
    }
  }
}

// product_tile for a number of rows known only at run time, at most Dot::rows.
template <typename Dot, int rows = Dot::rows>
__attribute__((noinline)) void vector_product_rows(int64_t count, const uint8_t* bytes, int64_t stride,
                                                   const int32_t* panel, int64_t words, IntVector (*out)[3]) {
  if (count == rows) {
    product_tile<Dot, rows>(bytes, stride, panel, words, out);
  } else if constexpr (rows > 1) {
    vector_product_rows<Dot, rows - 1>(count, bytes, stride, panel, words, out);
  }
}

// The same, on tiles where the instruction set has them. `between`: as in multiply_tiles.
template <typename Dot, typename Between = decltype(kNothingBetween)>
GRU_INLINE void product_rows(int64_t count, const uint8_t* bytes, int64_t stride, const int32_t* panel, int64_t words,
                             IntVector (*out)[3], const Between& between = kNothingBetween) {
  using Tiles = GRU_TILES;
  if constexpr (std::is_void_v<Tiles>) {
    vector_product_rows<Dot>(count, bytes, stride, panel, words, out);
  } else {
    static_assert(Dot::rows == kRowsOfTiles && Dot::zero == 0 && kLanes == kTileHeight);
    multiply_tiles<Tiles, int8_t, 3>(
        count, bytes, stride, panel + kWordStride, 4 * words, out, sizeof *out,
        [](const auto& product) { product.begin(); }, between);
  }
}

// The three gates' values of some units: scales, or biases, of which there may be none.
struct OfGates {
  VectorOf<float> r{}, z{}, n{};

  OfGates(const float* values, int64_t H, int64_t unit, int64_t count) {
    if (values == nullptr) return;
    r = load<float>(values + unit, count);
    z = load<float>(values + H + unit, count);
    n = load<float>(values + 2 * H + unit, count);
  }
};

GRU_INLINE VectorOf<float> to_float(IntVector value) { return __builtin_convertvector(value, VectorOf<float>); }

// The state of a row before a step; null for zero.
inline const float* state_before(const Int8Chunk& p, const Int8Step& step, int64_t row) {
  if (row < step.prev_rows) return p.y + step.prev_offset + row * p.y_stride;
  return p.h0 == nullptr ? nullptr : p.h0 + row * p.H;
}

// The `index`-th part of the groups: as many units as a vector has lanes, or as there are.
struct Part {
  int64_t unit, count;
  int64_t group, lane;  // where in packed weights

  Part(int64_t index, int64_t H)
      : unit(index * kLanes),
        count(std::min<int64_t>(kLanes, H - unit)),
        group(index / kParts),
        lane(index % kParts * kLanes) {}

  // Of packed weights (G, 1 + words, 3, 16).
  const int32_t* panel(const int32_t* weights, int64_t words) const {
    return weights + group * (1 + words) * kWordStride + lane;
  }
};

// W x + b_ih of a part for the rows [begin, end) of the chunk, plus b_hh for r and z.
template <typename Dot>
void input_gates_of(const Int8Chunk& p, const Part& part, int64_t begin, int64_t end) {
  const int64_t words = (p.I + 3) / 4;
  const int32_t* panel = part.panel(p.weight_ih, words);
  const OfGates scale(p.scale_ih, p.H, part.unit, part.count);
  OfGates bias(p.bias_ih, p.H, part.unit, part.count);
  const OfGates bias_hh(p.bias_hh, p.H, part.unit, part.count);
  bias.r += bias_hh.r;
  bias.z += bias_hh.z;
  float* out = p.input_gates + part.group * p.rows * kWordStride + part.lane;
  for_each_tile<Dot::rows>(end - begin, [&](int64_t of_run, int64_t count) GRU_INLINED {
    const int64_t first = begin + of_run;
    IntVector sums[Dot::rows][3];
    product_rows<Dot>(count, p.x_bytes + first * p.x_bytes_stride, p.x_bytes_stride, panel, words, sums);
    for (int64_t m = 0; m < count; ++m) {
      const float row_scale = p.x_scale[first + m];
      float* target = out + (first + m) * kWordStride;
      store<float>(target, to_float(sums[m][0]) * scale.r * row_scale + bias.r, kLanes);
      store<float>(target + kInt8Units, to_float(sums[m][1]) * scale.z * row_scale + bias.z, kLanes);
      store<float>(target + 2 * kInt8Units, to_float(sums[m][2]) * scale.n * row_scale + bias.n, kLanes);
    }
  });
}

// The next state of a part for `count` rows of a step from `first` on, from the sums of the product with R and the
// scales of the rows of the previous state.
GRU_INLINE void gates_of(const Int8Chunk& p, const Int8Step& step, const Part& part, int64_t first, int64_t count,
                         const IntVector (*sums)[3], const float* scales) {
  using Math = VectorMath<float>;
  using Vector = Math::Vector;
  const OfGates scale(p.scale_hh, p.H, part.unit, part.count);
  const Vector bias_hn = OfGates(p.bias_hh, p.H, part.unit, part.count).n;
  const float* input = p.input_gates + (part.group * p.rows + step.row) * kWordStride + part.lane;
  for (int64_t m = 0; m < count; ++m) {
    const int64_t row = first + m;
    const float* a = input + row * kWordStride;
    const Vector a_r = load<float>(a, kLanes) + to_float(sums[m][0]) * scale.r * scales[row];
    const Vector a_z = load<float>(a + kInt8Units, kLanes) + to_float(sums[m][1]) * scale.z * scales[row];
    const Vector a_n = load<float>(a + 2 * kInt8Units, kLanes);
    const Vector q = to_float(sums[m][2]) * scale.n * scales[row] + bias_hn;
    const float* before = state_before(p, step, row);
    const Vector h = before == nullptr ? Vector{} : load<float>(before + part.unit, part.count);
    Gates<Vector> gates;
    const Vector next = cell_fwd<Math>(a_r, a_z, a_n, q, h, gates);
    store<float>(p.y + step.y_offset + row * p.y_stride + part.unit, next, part.count);
    if (row >= step.last_rows) store<float>(p.h_n + row * p.H + part.unit, next, part.count);
  }
}

// The next state of the parts [begin, end) for all rows of a step, from the previous one as bytes
// (rows, h_bytes_stride) with a scale for each row. Where the rows are few, the products of several parts come before
// their gates, whose long chains of dependent operations then overlap; on tiles, gates wait for the next product.
template <typename Dot>
void step_parts(const Int8Chunk& p, const Int8Step& step, int64_t begin, int64_t end, bool backwards,
                const uint8_t* bytes, const float* scales) {
  if (step.rows == 0) return;  // of a row group whose sequences have ended, or have not begun
  const int64_t words = (p.H + 3) / 4;
  const auto part_of = [&](int64_t j) { return Part(backwards ? end - 1 - j : begin + j, p.H); };
  const auto product = [&](int64_t j, int64_t first, int64_t count, auto* sums, const auto& between) GRU_INLINED {
    const Part part = part_of(j);
    for (int64_t row = first; row < first + count; ++row) {
      // Its first touch would otherwise stand between the threads.
      __builtin_prefetch(p.y + step.y_offset + row * p.y_stride + part.unit, 1);
    }
    product_rows<Dot>(count, bytes + first * p.h_bytes_stride, p.h_bytes_stride, part.panel(p.weight_hh, words), words,
                      sums, between);
  };
  const auto gates = [&](int64_t j, int64_t first, int64_t count, const auto* sums)
                         GRU_INLINED { gates_of(p, step, part_of(j), first, count, sums, scales); };
  if constexpr (!std::is_void_v<GRU_TILES>) {
    return products_between_gates<IntVector[3], Dot::rows, 1>(end - begin, step.rows, product, gates);
  }
  const int64_t at_once = std::max<int64_t>(1, Dot::rows / step.rows);
  for (int64_t begun = 0; begun < end - begin; begun += at_once) {
    const int64_t last = std::min(begun + at_once, end - begin);
    for_each_tile<Dot::rows>(step.rows, [&](int64_t first, int64_t count) GRU_INLINED {
      IntVector sums[Dot::rows][3];
      for (int64_t j = begun; j < last; ++j) product(j, first, count, sums + (j - begun) * count, kNothingBetween);
      for (int64_t j = begun; j < last; ++j) gates(j, first, count, sums + (j - begun) * count);
    });
  }
}

template <typename Dot>
void int8_chunk(const Int8Chunk& p, int thread, int threads, StepBarrier& barrier) {
  const TilesInUse<GRU_TILES> in_use;
  const int64_t groups = (p.H + kInt8Units - 1) / kInt8Units;
  const int64_t parts = (p.H + kLanes - 1) / kLanes;
  const int64_t begin = share(groups, thread, threads) * kParts;
  const int64_t end = std::min(share(groups, thread + 1, threads) * kParts, parts);

  // The first round: the threads share the rows of x, which all of them multiply.
  const int64_t row_begin = share(p.rows, thread, threads), row_end = share(p.rows, thread + 1, threads);
  for (int64_t i = 0; i < p.step_count; ++i) {
    const Int8Step& step = p.steps[i];
    const int64_t last = std::min(row_end, step.row + step.rows);
    for (int64_t row = std::max(row_begin, step.row); row < last; ++row) {
      p.x_scale[row] = quantize_row<Dot>(p.x + step.x_offset + (row - step.row) * p.x_stride, p.I,
                                         p.x_bytes + row * p.x_bytes_stride);
    }
  }
  barrier.finished(thread, p.first_round + 1);
  barrier.wait(thread, threads, p.first_round + 1);
  for (int64_t part = begin; part < end; ++part) {
    if (p.all_rows) {
      input_gates_of<Dot>(p, Part(part, p.H), 0, p.rows);
      continue;
    }
    for (const Int8Step* step = p.steps; step < p.steps + p.step_count; ++step) {
      input_gates_of<Dot>(p, Part(part, p.H), step->row, step->row + step->rows);
    }
  }

  uint8_t* bytes = p.h_bytes + thread * p.B * p.h_bytes_stride;
  float* scales = p.h_scale + thread * p.B;
  for (int64_t i = 0; i < p.step_count; ++i) {
    const Int8Step& step = p.steps[i];
    const int64_t done = p.first_round + 1 + i;
    barrier.wait(thread, threads, done);
    for (int64_t row = 0; row < step.rows; ++row) {
      scales[row] = quantize_row<Dot>(state_before(p, step, row), p.H, bytes + row * p.h_bytes_stride);
    }
    // The weights used last are used first in the next step, from the cache.
    step_parts<Dot>(p, step, begin, end, /*backwards=*/done % 2 != 0, bytes, scales);
    if (threads > 1) barrier.finished(thread, done + 1);  // it waits for the stores: alone, the next step need not
  }
}

}  // namespace
}  // namespace gru_ext
