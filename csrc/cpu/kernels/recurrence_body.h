// The recurrence over a chunk of steps, forward and backward, for one thread of several.
//
// The threads of a row group split the hidden units: forward by groups, backward by panels. A step's product reads what
// all of them wrote in the step before, so each step begins with a wait for them; nothing else is shared within a step.
// Forward, the state is kept twice: a thread that is a step ahead writes the copy that the others no longer read. The
// order in which a thread goes through its units alternates, so that the weights it used last are used first, from the
// cache. A row group is a chunk with the rows of that group alone.
#pragma once

#include "cell/cell.h"
#include "cpu/kernels/gradients_body.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/lanes_body.h"
#include "cpu/kernels/layer_norm_body.h"
#include "cpu/kernels/panel_product_body.h"
#include "cpu/kernels/reset_before_body.h"
#include "cpu/step_barrier.h"
#include "cpu/kernels/steps_body.h"

namespace gru_ext {
namespace {

// The gates of `rows` rows of a step for the `count` units from `unit` on.
// input_gates, hidden_gates: (rows, 3, lanes).
template <bool masked, typename scalar_t, typename operand_t>
GRU_INLINE void gates_fwd(const FwdChunk<scalar_t, operand_t>& p, const Step& step, int64_t first_row, int64_t rows,
                          int64_t unit, int64_t count, const acc_type<scalar_t>* input_gates,
                          const acc_type<scalar_t>* hidden_gates, operand_t* h_next) {
  using acc_t = acc_type<scalar_t>;
  using Math = CellMath<scalar_t>;
  using Vector = typename Math::Vector;
  constexpr int lanes = Math::lanes;
  const Vector bias_hn = load<acc_t>(p.bias_hn + unit, lanes);
  for (int64_t m = 0; m < rows; ++m) {
    const int64_t row = first_row + m;
    const acc_t* input = input_gates + m * 3 * lanes;
    const acc_t* hidden = hidden_gates + m * 3 * lanes;
    const Vector a_r = load<acc_t>(input, lanes) + load<acc_t>(hidden, lanes);
    const Vector a_z = load<acc_t>(input + lanes, lanes) + load<acc_t>(hidden + lanes, lanes);
    const Vector a_n = load<acc_t>(input + 2 * lanes, lanes);
    const Vector q = load<acc_t>(hidden + 2 * lanes, lanes) + bias_hn;
    Gates<Vector> gates;
    advance<masked>(p, step, row, unit, count, h_next, [&](Vector h, auto... masks) GRU_INLINED {
      return cell_fwd<Math>(a_r, a_z, a_n, q, h, gates, masks...);
    });
    if (p.saves_gates) {
      scalar_t* saved = p.gates + (step.packed_row + row) * 4 * p.H + unit;
      store<acc_t>(saved, gates.r, count);
      store<acc_t>(saved + p.H, gates.z, count);
      store<acc_t>(saved + 2 * p.H, gates.n, count);
      store<acc_t>(saved + 3 * p.H, gates.q, count);
    }
  }
}

// Asks for the cache lines of y and of the gates that `gates_fwd` will write. Left to the stores themselves, lines that
// come from memory would hold back the store that tells the other threads that the step is done.
template <typename scalar_t, typename operand_t>
GRU_INLINE void prefetch_targets(const FwdChunk<scalar_t, operand_t>& p, const Step& step, int64_t first_row,
                                 int64_t rows, int64_t unit) {
  for (int64_t row = first_row; row < first_row + rows; ++row) {
    if (p.saves_y) __builtin_prefetch(p.y + step.offset + row * p.y_stride + unit, 1);
    if (!p.saves_gates) continue;
    const scalar_t* saved = p.gates + (step.packed_row + row) * 4 * p.H + unit;
    for (int gate = 0; gate < 4; ++gate) __builtin_prefetch(saved + gate * p.H, 1);
  }
}

template <typename scalar_t, typename operand_t, bool masked>
void fwd_chunk(const FwdChunk<scalar_t, operand_t>& p, int thread, int threads, StepBarrier& barrier) {
  const TilesInUse<TilesOf<operand_t>> in_use;
  if (!p.reset_after) return reset_before_fwd<masked>(p, thread, threads, barrier);
  if (p.norms > 0) return layer_norm_fwd<masked>(p, thread, threads, barrier);
  using acc_t = acc_type<scalar_t>;
  constexpr int lanes = VectorMath<acc_t>::lanes;
  const int64_t groups = (p.H + lanes - 1) / lanes;
  const int64_t begin = share(groups, thread, threads);
  const int64_t end = share(groups, thread + 1, threads);

  multiply_input(p, begin, end);
  for (int64_t i = 0; i < p.step_count; ++i) {
    const Step& step = p.steps[i];
    const int64_t done = p.first_step + i;
    const operand_t* h = p.h[done % 2];
    operand_t* h_next = p.h[(done + 1) % 2];
    barrier.wait(thread, threads, done);
    for_each_unit_tile<acc_t, operand_t, 3>(
        begin, end, /*ascending=*/done % 2 == 0, step.rows,
        [&](int64_t group, int64_t row, int64_t rows, acc_t* product, const auto& between) GRU_INLINED {
          const auto before = [&](int64_t first, int64_t count)
                                  GRU_INLINED { prefetch_targets(p, step, row + first, count, group * lanes); };
          multiply_units<3, Start::zero>(p, kThreeGates, p.weight_hh, p.H, group, rows, h + row * p.h_stride,
                                         p.h_stride, product, before, between);
        },
        [&](int64_t group, int64_t row, int64_t rows, const acc_t* product) GRU_INLINED {
          gates_fwd<masked>(p, step, row, rows, group * lanes, std::min<int64_t>(lanes, p.H - group * lanes),
                            p.input_gates + (group * p.rows + step.row + row) * 3 * lanes, product, h_next);
        });
    barrier.finished(thread, done + 1);
  }
}

// The derivative of the gates of the rows [first, last) of a step, whole blocks of them but for the step's last rows,
// for the `count` units from `unit` on.
template <bool masked, typename scalar_t, typename operand_t>
GRU_INLINE void gates_bwd(const BwdChunk<scalar_t, operand_t>& p, const Step& step, int64_t first, int64_t last,
                          int64_t unit, int64_t count) {
  using acc_t = acc_type<scalar_t>;
  using Math = VectorMath<acc_t>;
  using Vector = typename Math::Vector;
  GateGrads<Vector> sums{};
  for (int64_t row = first; row < last; ++row) {
    const scalar_t* saved = p.gates + (step.row + row) * 4 * p.H + unit;
    const Gates<Vector> gates = {load<acc_t>(saved, count), load<acc_t>(saved + p.H, count),
                                 load<acc_t>(saved + 2 * p.H, count), load<acc_t>(saved + 3 * p.H, count)};
    const scalar_t* h_prev = p.h_prev[step.row + row];
    const Vector h = h_prev == nullptr ? Vector{} : load<acc_t>(h_prev + unit, count);
    acc_t* dh = p.dh + row * p.dh_stride + unit;
    Vector d = load<acc_t>(dh, Math::lanes);
    if (p.dy != nullptr) d += load<acc_t>(p.dy + step.offset + row * p.dy_stride + unit, count);
    GateGrads<Vector> grads;
    Vector past_product;
    if constexpr (masked) {
      past_product = cell_bwd(gates, h, d, grads, cell_masks(p.masks, (step.packed_row + row) * p.H + unit, count));
    } else {
      past_product = cell_bwd(gates, h, d, grads);
    }
    store<acc_t>(dh, past_product, Math::lanes);
    operand_t* dgates = p.dgates + (step.row + row) * p.dgates_stride + unit;
    store_operand<acc_t>(dgates, p.dgates_stride, grads.n, count);
    store_operand<acc_t>(dgates + p.H, p.dgates_stride, grads.r, count);
    store_operand<acc_t>(dgates + 2 * p.H, p.dgates_stride, grads.z, count);
    store_operand<acc_t>(dgates + 3 * p.H, p.dgates_stride, grads.q, count);
    sums.n += grads.n;
    sums.r += grads.r;
    sums.z += grads.z;
    sums.q += grads.q;
    if (!ends_block(p, row, step.rows)) continue;
    add_bias_sum(p, row, 0, unit, sums.n);
    add_bias_sum(p, row, 1, unit, sums.r);
    add_bias_sum(p, row, 2, unit, sums.z);
    add_bias_sum(p, row, 3, unit, sums.q);
    sums = GateGrads<Vector>{};
  }
}

template <typename scalar_t, typename operand_t, bool masked>
void bwd_chunk(const BwdChunk<scalar_t, operand_t>& p, int thread, int threads, StepBarrier& barrier) {
  const TilesInUse<TilesOf<operand_t>> in_use;
  if (!p.reset_after) return reset_before_bwd<masked>(p, thread, threads, barrier);
  if (p.norms > 0) return layer_norm_bwd<masked>(p, thread, threads, barrier);
  using acc_t = acc_type<scalar_t>;
  constexpr int lanes = VectorMath<acc_t>::lanes;
  constexpr int columns = kPanelColumns<acc_t>;
  const int64_t panels = (p.H + columns - 1) / columns;
  const int64_t begin = share(panels, thread, threads);
  const int64_t end = share(panels, thread + 1, threads);
  const int64_t panel_size = words_of<acc_t, operand_t>(3 * p.H) * columns;
  const acc_t* weight_hh = static_cast<const acc_t*>(p.weight_hh);
  // Round i: the product of step i - 1, which needs all threads' gradients of it, then the gates of step i.
  for (int64_t i = 0; i <= p.step_count; ++i) {
    const int64_t done = p.first_step + i;
    const bool product = i > 0 && (i < p.step_count || p.last_product);
    if (product) barrier.wait(thread, threads, done);
    if (product && !p.packed) {
      add_unpacked_product<masked>(p, p.steps[i - 1], begin * columns, std::min(p.H, end * columns), 3 * p.H);
    }
    const int64_t gate_rows = i < p.step_count ? p.steps[i].rows : 0;
    const auto gates = [&](int64_t panel, int64_t row, int64_t rows) GRU_INLINED {
      for (int64_t unit = panel * columns; unit < std::min(p.H, (panel + 1) * columns); unit += lanes) {
        gates_bwd<masked>(p, p.steps[i], row, row + rows, unit, std::min<int64_t>(lanes, p.H - unit));
      }
    };
    WaitingGates<int64_t, decltype(gates)> waiting(gates, p.row_block);
    for (int64_t j = 0; j < end - begin; ++j) {
      const int64_t panel = done % 2 == 0 ? begin + j : end - 1 - j;
      if (product && p.packed) {
        const Step& step = p.steps[i - 1];
        for_each_tile<kRowsAtOnce<operand_t, kPanelVectors>>(step.rows, [&](int64_t row, int64_t rows) {
          add_recurrent_product<masked>(p, step, row, rows, panel * columns, 3 * p.H, weight_hh + panel * panel_size,
                                        [&](int64_t part, int64_t parts) GRU_INLINED {
                                          waiting.advance(row * parts + rows * part, step.rows * parts);
                                        });
        });
      }
      if (i == p.step_count) continue;
      if constexpr (kOnTiles<operand_t>) {
        waiting.put_off(panel, 0, gate_rows);
      } else {
        gates(panel, 0, gate_rows);
      }
    }
    waiting.advance(1, 1);
    barrier.finished(thread, done + 1);
    if (i == p.step_count || i % kLongestBiasSum == kLongestBiasSum - 1) {
      flush_bias_sums(p, begin * columns, end * columns);
    }
  }
}

}  // namespace
}  // namespace gru_ext
