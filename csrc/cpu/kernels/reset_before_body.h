// The recurrence with the reset gate before the recurrent product (Cho et al. 2014), over a chunk of steps, for one
// thread of several.
//
// A step has two products, the second of which needs the result of the first of all units: so the threads wait for each
// other twice a step. Forward, no thread can be a step ahead of another then, and one copy of the state is enough, and
// one of r * h. A thread owns pairs of groups of units forward, which the second product takes together, and panels
// backward.
#pragma once

#include "cell/cell.h"
#include "cpu/kernels/gradients_body.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/lanes_body.h"
#include "cpu/kernels/panel_product_body.h"
#include "cpu/step_barrier.h"
#include "cpu/kernels/steps_body.h"

namespace gru_ext {
namespace {

// r, z and r * h of `rows` rows of a step for a group of units. z replaces its pre-activation.
// input_gates: (rows, 3, lanes); hidden_gates: (rows, 2, lanes).
template <bool masked, typename scalar_t, typename operand_t>
GRU_INLINE void reset_gates_fwd(const FwdChunk<scalar_t, operand_t>& p, const Step& step, int64_t first_row,
                                int64_t rows, int64_t unit, acc_type<scalar_t>* input_gates,
                                const acc_type<scalar_t>* hidden_gates) {
  using acc_t = acc_type<scalar_t>;
  using Math = CellMath<scalar_t>;
  using Vector = typename Math::Vector;
  constexpr int lanes = Math::lanes;
  const int64_t count = std::min<int64_t>(lanes, p.H - unit);
  for (int64_t m = 0; m < rows; ++m) {
    const int64_t row = first_row + m;
    acc_t* input = input_gates + m * 3 * lanes;
    const acc_t* hidden = hidden_gates + m * 2 * lanes;
    const Vector a_r = load<acc_t>(input, lanes) + load<acc_t>(hidden, lanes);
    const Vector a_z = load<acc_t>(input + lanes, lanes) + load<acc_t>(hidden + lanes, lanes);
    ResetBeforeGates<Vector> gates;
    Vector h = load<acc_t>(p.state + row * p.unit_stride + unit, lanes);
    if (masked && p.masks.recurrent != nullptr) h *= recurrent_factor(p.masks, row * p.H + unit, count);
    const Vector reset = reset_fwd<Math>(a_r, a_z, h, gates);
    store_units(p, p.h[1], row, unit, reset);
    store<acc_t>(input + lanes, gates.z, lanes);
    if (p.saves_gates) {
      scalar_t* saved = p.gates + (step.packed_row + row) * 3 * p.H + unit;
      store<acc_t>(saved, gates.r, count);
      store<acc_t>(saved + p.H, gates.z, count);
    }
  }
}

// n and h' of `rows` rows of a step for a group of units.
// input_gates: (rows, 3, lanes), with z; hidden_gates: rows of lanes, hidden_stride apart.
template <bool masked, typename scalar_t, typename operand_t>
GRU_INLINE void candidate_gates_fwd(const FwdChunk<scalar_t, operand_t>& p, const Step& step, int64_t first_row,
                                    int64_t rows, int64_t unit, const acc_type<scalar_t>* input_gates,
                                    const acc_type<scalar_t>* hidden_gates, int64_t hidden_stride) {
  using acc_t = acc_type<scalar_t>;
  using Math = CellMath<scalar_t>;
  using Vector = typename Math::Vector;
  constexpr int lanes = Math::lanes;
  const int64_t count = std::min<int64_t>(lanes, p.H - unit);
  for (int64_t m = 0; m < rows; ++m) {
    const int64_t row = first_row + m;
    const acc_t* input = input_gates + m * 3 * lanes;
    const Vector a_n = load<acc_t>(input + 2 * lanes, lanes) + load<acc_t>(hidden_gates + m * hidden_stride, lanes);
    ResetBeforeGates<Vector> gates;
    gates.z = load<acc_t>(input + lanes, lanes);
    advance<masked>(p, step, row, unit, count, p.h[0],
                    [&](Vector h, auto... masks) GRU_INLINED { return candidate_fwd<Math>(a_n, h, gates, masks...); });
    if (p.saves_gates) {
      store<acc_t>(p.gates + (step.packed_row + row) * 3 * p.H + 2 * p.H + unit, gates.n, count);
    }
  }
}

// Asks for the cache lines that the gates will write; see `prefetch_targets`. `saved`: which of the saved gates.
template <typename scalar_t, typename operand_t>
GRU_INLINE void prefetch_gate(const FwdChunk<scalar_t, operand_t>& p, const Step& step, int64_t first_row, int64_t rows,
                              int64_t unit, int saved) {
  if (!p.saves_gates) return;
  for (int64_t row = first_row; row < first_row + rows; ++row) {
    __builtin_prefetch(p.gates + ((step.packed_row + row) * 3 + saved) * p.H + unit, 1);
  }
}

template <bool masked, typename scalar_t, typename operand_t>
void reset_before_fwd(const FwdChunk<scalar_t, operand_t>& p, int thread, int threads, StepBarrier& barrier) {
  using acc_t = acc_type<scalar_t>;
  constexpr int lanes = VectorMath<acc_t>::lanes;
  const int64_t groups = (p.H + lanes - 1) / lanes;
  const int64_t pairs = (groups + 1) / 2;
  const int64_t begin = share(pairs, thread, threads);
  const int64_t end = share(pairs, thread + 1, threads);
  const int64_t first_group = 2 * begin;
  const int64_t last_group = std::min(groups, 2 * end);
  const auto input_gates = [&](const Step& step, int64_t group, int64_t row) {
    return p.input_gates + (group * p.rows + step.row + row) * 3 * lanes;
  };
  multiply_input(p, first_group, last_group);
  for (int64_t i = 0; i < p.step_count; ++i) {
    const Step& step = p.steps[i];
    const int64_t done = p.first_step + i;
    const bool ascending = done % 2 == 0;
    barrier.wait(thread, threads, 2 * done);
    for_each_unit_tile<acc_t, operand_t, 2>(
        first_group, last_group, ascending, step.rows,
        [&](int64_t group, int64_t row, int64_t rows, acc_t* product, const auto& between) GRU_INLINED {
          const auto before = [&](int64_t first, int64_t count) GRU_INLINED {
            prefetch_gate(p, step, row + first, count, group * lanes, 0);
            prefetch_gate(p, step, row + first, count, group * lanes, 1);
          };
          multiply_units<2, Start::zero>(p, kTwoGates, p.weight_hh, p.H, group, rows, p.h[0] + row * p.h_stride,
                                         p.h_stride, product, before, between);
        },
        [&](int64_t group, int64_t row, int64_t rows, const acc_t* product) GRU_INLINED {
          reset_gates_fwd<masked>(p, step, row, rows, group * lanes, input_gates(step, group, row), product);
        });
    barrier.finished(thread, 2 * done + 1);
    barrier.wait(thread, threads, 2 * done + 1);
    for_each_unit_tile<acc_t, operand_t, 2>(
        begin, end, ascending, step.rows,
        [&](int64_t pair, int64_t row, int64_t rows, acc_t* product, const auto& between) GRU_INLINED {
          const auto before = [&](int64_t first, int64_t count) GRU_INLINED {
            for (int64_t group = 2 * pair; group < std::min(groups, 2 * pair + 2); ++group) {
              prefetch_gate(p, step, row + first, count, group * lanes, 2);
              for (int64_t m = row + first; m < row + first + count && p.saves_y; ++m) {
                __builtin_prefetch(p.y + step.offset + m * p.y_stride + group * lanes, 1);
              }
            }
          };
          multiply_units<2, Start::zero>(p, kTwoGroups, p.weight_hn, p.H, pair, rows, p.h[1] + row * p.h_stride,
                                         p.h_stride, product, before, between);
        },
        [&](int64_t pair, int64_t row, int64_t rows, const acc_t* product) GRU_INLINED {
          for (int64_t group = 2 * pair; group < std::min(groups, 2 * pair + 2); ++group) {
            candidate_gates_fwd<masked>(p, step, row, rows, group * lanes, input_gates(step, group, row),
                                        product + (group - 2 * pair) * lanes, 2 * lanes);
          }
        });
    barrier.finished(thread, 2 * done + 2);
  }
}

// What the backward reads of a row of a step, for the `count` units from `unit` on.
template <typename scalar_t, typename operand_t>
GRU_INLINE VectorOf<acc_type<scalar_t>> load_saved(const BwdChunk<scalar_t, operand_t>& p, const Step& step,
                                                   int64_t row, int64_t unit, int64_t count,
                                                   ResetBeforeGates<VectorOf<acc_type<scalar_t>>>& gates) {
  using acc_t = acc_type<scalar_t>;
  const scalar_t* saved = p.gates + (step.row + row) * 3 * p.H + unit;
  gates = {load<acc_t>(saved, count), load<acc_t>(saved + p.H, count), load<acc_t>(saved + 2 * p.H, count)};
  const scalar_t* h_prev = p.h_prev[step.row + row];
  return h_prev == nullptr ? VectorOf<acc_t>{} : load<acc_t>(h_prev + unit, count);
}

// The gradients of n and z of a step, for the `count` units from `unit` on.
template <bool masked, typename scalar_t, typename operand_t>
GRU_INLINE void candidate_gates_bwd(const BwdChunk<scalar_t, operand_t>& p, const Step& step, int64_t unit,
                                    int64_t count) {
  using acc_t = acc_type<scalar_t>;
  using Math = VectorMath<acc_t>;
  using Vector = typename Math::Vector;
  ResetBeforeGrads<Vector> sums{};
  for (int64_t row = 0; row < step.rows; ++row) {
    ResetBeforeGates<Vector> gates;
    const Vector h = load_saved(p, step, row, unit, count, gates);
    acc_t* dh = p.dh + row * p.dh_stride + unit;
    Vector d = load<acc_t>(dh, Math::lanes);
    if (p.dy != nullptr) d += load<acc_t>(p.dy + step.offset + row * p.dy_stride + unit, count);
    ResetBeforeGrads<Vector> grads;
    Vector past_products;
    if constexpr (masked) {
      const auto masks = cell_masks(p.masks, (step.packed_row + row) * p.H + unit, count);
      past_products = candidate_bwd(gates, h, d, grads, masks);
    } else {
      past_products = candidate_bwd(gates, h, d, grads);
    }
    store<acc_t>(dh, past_products, Math::lanes);
    operand_t* dgates = p.dgates + (step.row + row) * p.dgates_stride + unit;
    store_operand<acc_t>(dgates, p.dgates_stride, grads.n, count);
    store_operand<acc_t>(dgates + 2 * p.H, p.dgates_stride, grads.z, count);
    sums.n += grads.n;
    sums.z += grads.z;
    if (!ends_block(p, row, step.rows)) continue;
    add_bias_sum(p, row, 0, unit, sums.n);
    add_bias_sum(p, row, 2, unit, sums.z);
    sums = ResetBeforeGrads<Vector>{};
  }
}

// The gradients of r of `rows` rows of a step, for the `count` units from `unit` on.
// dreset: gradients of r * h, rows dreset_stride apart. `sum`: in, out: over the rows of an unfinished block.
template <bool masked, typename scalar_t, typename operand_t>
GRU_INLINE void reset_gates_bwd(const BwdChunk<scalar_t, operand_t>& p, const Step& step, int64_t first_row,
                                int64_t rows, int64_t unit, int64_t count, const acc_type<scalar_t>* dreset,
                                int64_t dreset_stride, VectorOf<acc_type<scalar_t>>& sum) {
  using acc_t = acc_type<scalar_t>;
  using Math = VectorMath<acc_t>;
  using Vector = typename Math::Vector;
  for (int64_t m = 0; m < rows; ++m) {
    const int64_t row = first_row + m;
    ResetBeforeGates<Vector> gates;
    Vector h = load_saved(p, step, row, unit, count, gates);
    Vector factor = Vector{} + 1;
    if (masked && p.masks.recurrent != nullptr) factor = recurrent_factor(p.masks, row * p.H + unit, count);
    h *= factor;
    ResetBeforeGrads<Vector> grads;
    const Vector d = load<acc_t>(dreset + m * dreset_stride, Math::lanes);
    const Vector past_reset = reset_bwd(gates, h, d, grads) * factor;
    acc_t* dh = p.dh + row * p.dh_stride + unit;
    store<acc_t>(dh, load<acc_t>(dh, Math::lanes) + past_reset, Math::lanes);
    store_operand<acc_t>(p.dgates + (step.row + row) * p.dgates_stride + p.H + unit, p.dgates_stride, grads.r, count);
    sum += grads.r;
    if (!ends_block(p, row, step.rows)) continue;
    add_bias_sum(p, row, 1, unit, sum);
    sum = Vector{};
  }
}

template <bool masked, typename scalar_t, typename operand_t>
void reset_before_bwd(const BwdChunk<scalar_t, operand_t>& p, int thread, int threads, StepBarrier& barrier) {
  using acc_t = acc_type<scalar_t>;
  constexpr int lanes = VectorMath<acc_t>::lanes;
  constexpr int columns = kPanelColumns<acc_t>;
  constexpr int rows_at_once = kRowsAtOnce<operand_t, kPanelVectors>;
  const int64_t panels = (p.H + columns - 1) / columns;
  const int64_t begin = share(panels, thread, threads);
  const int64_t end = share(panels, thread + 1, threads);
  const acc_t* no_bias = nullptr;
  // The columns of a panel, K rows of weights.
  const auto panel_of = [=](const void* weights, int64_t panel, int64_t K) {
    return static_cast<const acc_t*>(weights) + panel * words_of<acc_t, operand_t>(K) * columns;
  };
  alignas(64) acc_t dreset[rows_at_once * columns];
  // Round i: the product of r and z of step i - 1, which needs all threads' gradients of it, then n and z of step i;
  // then the product of n, which needs all threads' gradients of that, and r.
  for (int64_t i = 0; i <= p.step_count; ++i) {
    const int64_t done = p.first_step + i;
    const bool product = i > 0 && (i < p.step_count || p.last_product);
    const auto nth_panel = [=](int64_t j) { return done % 2 == 0 ? begin + j : end - 1 - j; };
    if (product) barrier.wait(thread, threads, 2 * done);
    if (product && !p.packed) {
      add_unpacked_product<masked>(p, p.steps[i - 1], begin * columns, std::min(p.H, end * columns), 2 * p.H);
    }
    for (int64_t j = 0; j < end - begin; ++j) {
      const int64_t panel = nth_panel(j);
      if (product && p.packed) {
        const Step& step = p.steps[i - 1];
        for_each_tile<rows_at_once>(step.rows, [&](int64_t row, int64_t rows) {
          add_recurrent_product<masked>(p, step, row, rows, panel * columns, 2 * p.H,
                                        panel_of(p.weight_hh, panel, 2 * p.H));
        });
      }
      if (i == p.step_count) continue;
      for (int64_t unit = panel * columns; unit < std::min(p.H, (panel + 1) * columns); unit += lanes) {
        candidate_gates_bwd<masked>(p, p.steps[i], unit, std::min<int64_t>(lanes, p.H - unit));
      }
    }
    if (i < p.step_count) {
      barrier.finished(thread, 2 * done + 1);
      barrier.wait(thread, threads, 2 * done + 1);
      const Step& step = p.steps[i];
      for (int64_t j = 0; j < end - begin; ++j) {
        const int64_t panel = nth_panel(j);
        VectorOf<acc_t> sums[kPanelVectors] = {};
        for_each_tile<rows_at_once>(step.rows, [&](int64_t row, int64_t rows) {
          const operand_t* dgates = p.dgates + (step.row + row) * p.dgates_stride;
          if (p.packed) {
            product_rows<kPanelVectors, Start::zero>(rows, dgates, p.dgates_stride, panel_of(p.weight_hn, panel, p.H),
                                                     p.H, no_bias, 0, dreset, columns, /*far=*/false, p.one_chain);
          } else if constexpr (std::is_same_v<acc_t, operand_t>) {
            std::fill_n(dreset, rows * columns, acc_t(0));
            add_matrix_product(rows, dgates, p.dgates_stride, static_cast<const scalar_t*>(p.weight_hn), p.H, p.H,
                               panel * columns, std::min<int64_t>(columns, p.H - panel * columns), dreset, columns);
          }
          for (int64_t unit = panel * columns; unit < std::min(p.H, (panel + 1) * columns); unit += lanes) {
            reset_gates_bwd<masked>(p, step, row, rows, unit, std::min<int64_t>(lanes, p.H - unit),
                                    dreset + unit - panel * columns, columns, sums[unit / lanes % kPanelVectors]);
          }
        });
      }
    }
    barrier.finished(thread, 2 * done + 2);
    if (i == p.step_count || i % kLongestBiasSum == kLongestBiasSum - 1) {
      flush_bias_sums(p, begin * columns, end * columns);
    }
  }
}

}  // namespace
}  // namespace gru_ext
