// What the recurrences share: products with the weights of a thread's units, the order in which a thread goes through
// a step, masks, and the sums for the gradients of the biases.
#pragma once

#include "cell/cell.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/lanes_body.h"
#include "cpu/kernels/matrix_product_body.h"
#include "cpu/kernels/panel_product_body.h"
#include "cpu/kernels/row_tiles.h"
#include "cpu/kernels/turned_product_body.h"

namespace gru_ext {
namespace {

// sigmoid and tanh of a cell whose tensors are of scalar_t.
template <typename scalar_t>
using CellMath =
    std::conditional_t<std::is_same_v<scalar_t, c10::BFloat16>, MathForBFloat16, VectorMath<acc_type<scalar_t>>>;

// Whether products with weights that are not packed take rows in words.
template <typename scalar_t, typename operand_t>
constexpr bool kTakesWords = kOnTiles<operand_t> && !kByParts<scalar_t, operand_t>;

// Stores what the next product reads of some units of a row, in p.h[0] or p.h[1].
template <typename scalar_t, typename operand_t>
GRU_INLINE void store_units(const FwdChunk<scalar_t, operand_t>& p, operand_t* rows, int64_t row, int64_t unit,
                            VectorOf<acc_type<scalar_t>> value) {
  using acc_t = acc_type<scalar_t>;
  constexpr int64_t lanes = VectorMath<acc_t>::lanes;
  if constexpr (kTakesWords<scalar_t, operand_t>) {
    if (!p.packed) return store_words(rows, p.h_stride, row, unit, value, std::min(lanes, p.H - unit));
  }
  store_operand<acc_t>(rows + row * p.h_stride + unit, p.h_stride, value, lanes);
}

// out (rows, vectors, lanes) = a (rows, K) times the weights of a panel's units. `before`, `between`: as in
// product_rows; of weights that are not packed, nothing comes between.
template <int vectors, Start start, typename scalar_t, typename operand_t, typename Before = decltype(kNothingBefore),
          typename Between = decltype(kNothingBetween)>
GRU_INLINE void multiply_units(const FwdChunk<scalar_t, operand_t>& p, UnitVectors of, const void* weights, int64_t K,
                               int64_t panel, int64_t rows, const operand_t* a, int64_t a_stride,
                               acc_type<scalar_t>* out, const Before& before = kNothingBefore,
                               const Between& between = kNothingBetween) {
  using acc_t = acc_type<scalar_t>;
  constexpr int lanes = VectorMath<acc_t>::lanes;
  const int64_t unit = panel * of.groups() * lanes;
  const acc_t* bias = start == Start::bias ? p.input_bias + unit : nullptr;
  [[maybe_unused]] const auto* const not_packed = static_cast<const scalar_t*>(weights);
  if constexpr (kTakesWords<scalar_t, operand_t>) {
    if (!p.packed) {
      return for_each_tile<kRowsOfTiles, kTileHeight>(rows, [&](int64_t first, int64_t count) {
        before(first, count);
        turned_product_rows<TilesOf<operand_t>, vectors>(count, a + first * a_stride, a_stride, not_packed, of, p.H, K,
                                                         unit, bias, p.unit_stride, out + first * vectors * lanes);
      });
    }
  } else if constexpr (!kByParts<scalar_t, operand_t>) {  // which are always packed
    if (!p.packed) {
      return for_each_tile<kTileRows<vectors>>(rows, [&](int64_t first, int64_t count) GRU_INLINED {
        before(first, count);
        unpacked_product_rows<acc_t, vectors>(count, a + first * a_stride, a_stride, not_packed, of, p.H, K, unit,
                                              std::min<int64_t>(lanes, p.H - unit), bias, p.unit_stride,
                                              out + first * vectors * lanes);
      });
    }
  }
  const acc_t* packed = static_cast<const acc_t*>(weights) + panel * words_of<acc_t, operand_t>(K) * vectors * lanes;
  product_rows<vectors, start>(rows, a, a_stride, packed, K, bias, p.unit_stride, out, vectors * lanes,
                               are_far(3 * p.H * K * sizeof(operand_t)), p.one_chain, before, between);
}

// Calls `body(first, count)` for the runs of neighbouring rows of the chunk that the steps have.
template <typename scalar_t, typename operand_t, typename Body>
GRU_INLINE void for_each_run(const FwdChunk<scalar_t, operand_t>& p, const Body& body) {
  if (p.all_rows) return body(0, p.rows);
  for (const Step* step = p.steps; step < p.steps + p.step_count; ++step) body(step->row, step->rows);
}

// W x of some rows of the chunk for a group; and the biases, where no normalisation comes before them.
template <typename scalar_t, typename operand_t>
void multiply_input_rows(const FwdChunk<scalar_t, operand_t>& p, int64_t group, int64_t row, int64_t rows) {
  constexpr int lanes = VectorMath<acc_type<scalar_t>>::lanes;
  const operand_t* x = p.x + row * p.x_stride;
  auto* out = p.input_gates + (group * p.rows + row) * 3 * lanes;
  if (p.norms > 0) {
    multiply_units<3, Start::zero>(p, kThreeGates, p.weight_ih, p.I, group, rows, x, p.x_stride, out);
  } else {
    multiply_units<3, Start::bias>(p, kThreeGates, p.weight_ih, p.I, group, rows, x, p.x_stride, out);
  }
}

// The input product of the rows of the steps for the groups [begin, end), where it has not been computed.
template <typename scalar_t, typename operand_t>
void multiply_input(const FwdChunk<scalar_t, operand_t>& p, int64_t begin, int64_t end) {
  if (p.has_input) return;
  for (int64_t group = begin; group < end; ++group) {
    for_each_run(p, [&](int64_t first, int64_t count) { multiply_input_rows(p, group, first, count); });
  }
}

template <typename scalar_t, typename operand_t>
void multiply_input_share(const FwdChunk<scalar_t, operand_t>& p, int thread, int threads) {
  constexpr int lanes = VectorMath<acc_type<scalar_t>>::lanes;
  constexpr int tile_rows = kMostRows<operand_t, 3>;
  const TilesInUse<TilesOf<operand_t>> in_use;
  const int64_t groups = (p.H + lanes - 1) / lanes;
  const int64_t tiles = (p.rows + tile_rows - 1) / tile_rows;
  const auto row_of = [=](int64_t tile) { return first_of_tile<kRowMultiple<operand_t>>(p.rows, tile, tiles); };
  const int64_t end = share(groups * tiles, thread + 1, threads);
  for (int64_t i = share(groups * tiles, thread, threads), next; i < end; i = next) {
    const int64_t group = i / tiles;
    next = std::min(end, (group + 1) * tiles);
    const int64_t row = row_of(i - group * tiles);
    multiply_input_rows(p, group, row, row_of(next - group * tiles) - row);
  }
}

// Goes through a step: for some of its rows and each panel [begin, end), `product(panel, row, rows, out, between)`, out
// (rows, vectors, lanes), and then `gates(panel, row, rows, out)`. Where a step is one tile, several panels' products
// come before their gates, which then overlap each other: the gates of a single row wait for their own results most of
// the time. With products on tiles, the gates wait for the next of them.
template <typename acc_t, typename operand_t, int vectors, typename Product, typename Gates>
GRU_INLINE void for_each_unit_tile(int64_t begin, int64_t end, bool ascending, int64_t step_rows,
                                   const Product& product, const Gates& gates) {
  constexpr int64_t most_panels = 4;
  constexpr int tile_rows = kMostRows<operand_t, vectors>, rows_at_once = kRowsAtOnce<operand_t, vectors>;
  constexpr int64_t row_size = vectors * VectorMath<acc_t>::lanes, tile_size = tile_rows * row_size;
  const auto panel_of = [=](int64_t j) { return ascending ? begin + j : end - 1 - j; };
  if constexpr (kOnTiles<operand_t>) {
    products_between_gates<acc_t[row_size], tile_rows, kRowMultiple<operand_t>>(
        end - begin, step_rows,
        [&](int64_t j, int64_t row, int64_t rows, auto* out, const auto& between)
            GRU_INLINED { product(panel_of(j), row, rows, *out, between); },
        [&](int64_t j, int64_t row, int64_t rows, const auto* out)
            GRU_INLINED { gates(panel_of(j), row, rows, *out); });
  } else {
    alignas(64) acc_t products[std::max(most_panels * tile_size, rows_at_once * row_size)];
    const int64_t at_once = step_rows <= tile_rows ? most_panels : 1;
    for (int64_t first = 0; first < end - begin; first += at_once) {
      const int64_t last = std::min(end - begin, first + at_once);
      for_each_tile<rows_at_once>(step_rows, [&](int64_t row, int64_t rows) GRU_INLINED {
        const auto products_of = [&](int64_t j) { return products + (j - first) * tile_size; };
        for (int64_t j = first; j < last; ++j) product(panel_of(j), row, rows, products_of(j), kNothingBetween);
        for (int64_t j = first; j < last; ++j) gates(panel_of(j), row, rows, products_of(j));
      });
    }
  }
}

// The masks of a step's cell for `count` units of one row, which begin at element `place` of (N, H).
template <typename acc_t>
GRU_INLINE CellMasks<VectorOf<acc_t>> cell_masks(const DirectionMasks<acc_t>& masks, int64_t place, int64_t count) {
  using Vector = VectorOf<acc_t>;
  return {masks.zoneout == nullptr ? Vector{} + masks.kept : load_mask<acc_t>(masks.zoneout + place, count),
          masks.candidate == nullptr ? Vector{} + 1
                                     : load_mask<acc_t>(masks.candidate + place, count) * masks.candidate_scale,
          masks.zoneout != nullptr || masks.kept != acc_t(0)};
}

// The factor of h in the recurrent product for `count` units, which begin at element `place` of (B, H).
template <typename acc_t>
GRU_INLINE VectorOf<acc_t> recurrent_factor(const DirectionMasks<acc_t>& masks, int64_t place, int64_t count) {
  return load_mask<acc_t>(masks.recurrent + place, count) * masks.recurrent_scale;
}

// The state of `count` units of a row, from `unit` on, after the step: `cell(h, masks...)` of that before it. To
// `h_next` goes what the next step's product reads.
template <bool masked, typename scalar_t, typename operand_t, typename Cell>
GRU_INLINE void advance(const FwdChunk<scalar_t, operand_t>& p, const Step& step, int64_t row, int64_t unit,
                        int64_t count, operand_t* h_next, const Cell& cell) {
  using acc_t = acc_type<scalar_t>;
  using Vector = VectorOf<acc_t>;
  constexpr int lanes = VectorMath<acc_t>::lanes;
  acc_t* state = p.state + row * p.unit_stride + unit;
  Vector h = load<acc_t>(state, lanes);
  Vector operand;
  if constexpr (masked) {
    h = cell(h, cell_masks(p.masks, (step.packed_row + row) * p.H + unit, count));
    operand = p.masks.recurrent == nullptr ? h : h * recurrent_factor(p.masks, row * p.H + unit, count);
  } else {
    operand = h = cell(h);
  }
  store<acc_t>(state, h, lanes);
  store_units(p, h_next, row, unit, operand);
  if (p.saves_y) store<acc_t>(p.y + step.offset + row * p.y_stride + unit, h, count);
}

// Steps whose gate gradients are summed in one chain of additions for the gradients of the biases: sums of sums round
// less than one long sum.
constexpr int64_t kLongestBiasSum = 32;

// Whether a row of a step is the last of its block.
template <typename scalar_t, typename operand_t>
bool ends_block(const BwdChunk<scalar_t, operand_t>& p, int64_t row, int64_t rows) {
  return (row & (p.row_block - 1)) == p.row_block - 1 || row == rows - 1;
}

// Adds `sum`, over the rows up to `row` of a block and of the gate that is `gate`-th in the order of dgates, to the
// partial sums for the units from `unit` on.
template <typename scalar_t, typename operand_t>
GRU_INLINE void add_bias_sum(const BwdChunk<scalar_t, operand_t>& p, int64_t row, int gate, int64_t unit,
                             VectorOf<acc_type<scalar_t>> sum) {
  using acc_t = acc_type<scalar_t>;
  constexpr int lanes = VectorMath<acc_t>::lanes;
  acc_t* partial = p.dbias_partial + ((row >> __builtin_ctzll(p.row_block)) * p.sums + gate) * p.dh_stride + unit;
  store<acc_t>(partial, load<acc_t>(partial, lanes) + sum, lanes);
}

// Adds the thread's partial sums to the gradients of the biases, and clears them.
template <typename scalar_t, typename operand_t>
void flush_bias_sums(const BwdChunk<scalar_t, operand_t>& p, int64_t first_unit, int64_t last_unit) {
  for (int64_t sum = 0; sum < (p.B + p.row_block - 1) / p.row_block * p.sums; ++sum) {
    for (int64_t i = sum * p.dh_stride + first_unit; i < sum * p.dh_stride + last_unit; ++i) {
      p.dbias[i] += p.dbias_partial[i];
      p.dbias_partial[i] = 0;
    }
  }
}

// The state before each step times the factor of the recurrent dropout: some rows and units of what entered the
// product.
template <typename scalar_t, typename operand_t>
void mask_previous_states(const BwdChunk<scalar_t, operand_t>& p, int64_t first_row, int64_t last_row,
                          int64_t first_unit, int64_t last_unit) {
  using acc_t = acc_type<scalar_t>;
  constexpr int64_t lanes = VectorMath<acc_t>::lanes;
  for (const Step* step = p.steps; step < p.steps + p.step_count; ++step) {
    const int64_t last = std::min(step->rows, last_row - step->row);
    for (int64_t row = std::max<int64_t>(0, first_row - step->row); row < last; ++row) {
      const scalar_t* h_prev = p.h_prev[step->row + row];
      scalar_t* operand = p.operand + (step->row + row) * p.H;
      for (int64_t unit = first_unit; unit < last_unit; unit += lanes) {
        const int64_t count = std::min(lanes, last_unit - unit);
        const auto h = h_prev == nullptr ? VectorOf<acc_t>{} : load<acc_t>(h_prev + unit, count);
        store<acc_t>(operand + unit, h * recurrent_factor(p.masks, row * p.H + unit, count), count);
      }
    }
  }
}

// Adds product (rows, stride) to `count` units of dh, times the factor of the recurrent dropout.
template <typename scalar_t, typename operand_t>
void add_masked(const BwdChunk<scalar_t, operand_t>& p, int64_t row, int64_t rows, int64_t first_unit, int64_t count,
                const acc_type<scalar_t>* product, int64_t stride) {
  using acc_t = acc_type<scalar_t>;
  constexpr int64_t lanes = VectorMath<acc_t>::lanes;
  for (int64_t m = 0; m < rows; ++m) {
    for (int64_t unit = 0; unit < count; unit += lanes) {
      acc_t* target = p.dh + (row + m) * p.dh_stride + first_unit + unit;
      const auto factor = recurrent_factor(p.masks, (row + m) * p.H + first_unit + unit, std::min(lanes, count - unit));
      store<acc_t>(target, load<acc_t>(target, lanes) + load<acc_t>(product + m * stride + unit, lanes) * factor,
                   lanes);
    }
  }
}

// Adds R' dgates of a step to the units [first_unit, last_unit) of dh, where the weights are not packed. K: gates of H
// units each, from r on.
template <bool masked, typename scalar_t, typename operand_t>
void add_unpacked_product(const BwdChunk<scalar_t, operand_t>& p, const Step& step, int64_t first_unit,
                          int64_t last_unit, int64_t K) {
  using acc_t = acc_type<scalar_t>;
  if constexpr (std::is_same_v<acc_t, operand_t>) {  // others are always packed
    const acc_t* dgates = p.dgates + step.row * p.dgates_stride + p.dgates_of_h;
    const auto* weights = static_cast<const scalar_t*>(p.weight_hh);
    if (!masked || p.masks.recurrent == nullptr) {
      return add_matrix_product(step.rows, dgates, p.dgates_stride, weights, p.H, K, first_unit, last_unit - first_unit,
                                p.dh + first_unit, p.dh_stride);
    }
    constexpr int64_t width = kPanelsAtOnce * kPanelColumns<acc_t>;
    for (int64_t row = 0; row < step.rows; ++row) {
      for (int64_t unit = first_unit; unit < last_unit; unit += width) {
        alignas(64) acc_t product[width] = {};
        const int64_t count = std::min(width, last_unit - unit);
        add_matrix_product(1, dgates + row * p.dgates_stride, p.dgates_stride, weights, p.H, K, unit, count, product,
                           width);
        add_masked(p, row, 1, unit, count, product, width);
      }
    }
  }
}

// Adds R' dgates of some rows of a step, for the columns of a panel, to dh. K as above; `between` as in product_rows.
template <bool masked, typename scalar_t, typename operand_t, typename Between = decltype(kNothingBetween)>
GRU_INLINE void add_recurrent_product(const BwdChunk<scalar_t, operand_t>& p, const Step& step, int64_t row,
                                      int64_t rows, int64_t first_unit, int64_t K, const acc_type<scalar_t>* panel,
                                      const Between& between = kNothingBetween) {
  using acc_t = acc_type<scalar_t>;
  constexpr int64_t columns = kPanelColumns<acc_t>;
  const operand_t* dgates = p.dgates + (step.row + row) * p.dgates_stride + p.dgates_of_h;
  acc_t* dh = p.dh + row * p.dh_stride + first_unit;
  const acc_t* no_bias = nullptr;
  const bool far = are_far(K * p.H * sizeof(operand_t));
  if (!masked || p.masks.recurrent == nullptr) {
    product_rows<kPanelVectors, Start::accumulate>(rows, dgates, p.dgates_stride, panel, K, no_bias, 0, dh, p.dh_stride,
                                                   far, p.one_chain, kNothingBefore, between);
    return;
  }
  alignas(64) acc_t product[kRowsAtOnce<operand_t, kPanelVectors> * columns];
  product_rows<kPanelVectors, Start::zero>(rows, dgates, p.dgates_stride, panel, K, no_bias, 0, product, columns, far,
                                           p.one_chain, kNothingBefore, between);
  add_masked(p, row, rows, first_unit, std::min(columns, p.H - first_unit), product, columns);
}

}  // namespace
}  // namespace gru_ext
