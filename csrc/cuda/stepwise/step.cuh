// The stepwise kernels: everything of one step but its matrix product, which at::mm does before. For every dtype and
// shape.
//
// A block is 8 rows of 32 hidden units, one thread each, in tiles that cover (rows, H): consecutive blocks take
// consecutive units, then the next rows. A thread stays with its unit and, where there are more rows than blocks, goes
// on to further ones. Every value is written by one thread, in an order that nothing can change.
#pragma once

#include "cell/cell.h"
#include "cuda/cell_masks.cuh"
#include "cuda/params.h"
#include "cuda/primitives.cuh"

namespace gru_ext {

using device::from_acc;
using device::load_global;
using device::store_global;
using device::to_acc;

constexpr int kStepUnits = device::kWarpSize;  // of a block
constexpr int kStepRows = 8;                   // of a block
constexpr int kStepThreads = kStepUnits * kStepRows;

// The place of a thread in (rows, H).
struct StepPlace {
  int64_t unit, first_row, row_stride;

  GRU_DEVICE explicit StepPlace(int64_t H) {
    const int unit_tiles = static_cast<int>((H + kStepUnits - 1) / kStepUnits);
    const int row_tile = device::block_index() / unit_tiles;
    const int unit_tile = device::block_index() - row_tile * unit_tiles;
    unit = static_cast<int64_t>(unit_tile) * kStepUnits + device::thread_index() % kStepUnits;
    first_row = static_cast<int64_t>(row_tile) * kStepRows + device::thread_index() / kStepUnits;
    row_stride = static_cast<int64_t>(device::block_count() / unit_tiles) * kStepRows;
  }
};

// The state after a step: into h, into y, and into the operand of the next product, times its mask.
template <typename scalar_t, typename acc_t>
GRU_DEVICE void store_state(const GruStepFwdParams<scalar_t, acc_t>& p, int64_t row, int64_t unit, acc_t state,
                            int recurrent_mask) {
  const int64_t element = row * p.H + unit;
  store_global(p.h + element, state);
  if (p.y != nullptr) store_global(p.y + row * p.y_stride + unit, from_acc<scalar_t>(state));
  if (p.h_operand != nullptr) {
    store_global(p.h_operand + element, from_acc<scalar_t>(state * recurrent_factor(p.masks, recurrent_mask != 0)));
  }
}

// Grid: a multiple of the tiles across H.
template <typename scalar_t>
GRU_KERNEL(kStepThreads, 2)
gru_step_fwd_kernel(const GruStepFwdParams<scalar_t, device::acc_type<scalar_t>> p) {
  using acc_t = device::acc_type<scalar_t>;
  const StepPlace place(p.H);
  if (place.unit >= p.H) return;
  const int64_t u = place.unit;
  acc_t bias_r = 0, bias_z = 0, bias_in = 0, bias_hn = 0;
  if (p.bias_ih != nullptr) {
    bias_r = to_acc(load_global(p.bias_ih + u)) + to_acc(load_global(p.bias_hh + u));
    bias_z = to_acc(load_global(p.bias_ih + p.H + u)) + to_acc(load_global(p.bias_hh + p.H + u));
    bias_in = to_acc(load_global(p.bias_ih + 2 * p.H + u));
    bias_hn = to_acc(load_global(p.bias_hh + 2 * p.H + u));
  }
  for (int64_t row = place.first_row; row < p.rows; row += place.row_stride) {
    const int64_t element = row * p.H + u;
    const LoadedMasks masks = load_masks(p.masks, true, element);
    const int recurrent_mask = load_mask(p.masks.recurrent, element);
    const acc_t* a_x = p.a_x + row * 3 * p.H + u;
    const acc_t* a_h = p.a_h + row * 3 * p.H + u;
    const acc_t a_r = load_global(a_x) + load_global(a_h) + bias_r;
    const acc_t a_z = load_global(a_x + p.H) + load_global(a_h + p.H) + bias_z;
    const acc_t a_n = load_global(a_x + 2 * p.H) + bias_in;
    const acc_t q = load_global(a_h + 2 * p.H) + bias_hn;
    const acc_t h = load_global(p.h + element);
    Gates<acc_t> gates;
    using Math = device::AccurateMath<acc_t>;
    const acc_t next = p.masks.any ? cell_fwd<Math>(a_r, a_z, a_n, q, h, gates, cell_masks(p.masks, masks))
                                   : cell_fwd<Math>(a_r, a_z, a_n, q, h, gates);
    store_state(p, row, u, next, recurrent_mask);
    if (p.gates != nullptr) {
      scalar_t* const saved = p.gates + row * 4 * p.H + u;
      store_global(saved, from_acc<scalar_t>(gates.r));
      store_global(saved + p.H, from_acc<scalar_t>(gates.z));
      store_global(saved + 2 * p.H, from_acc<scalar_t>(gates.n));
      store_global(saved + 3 * p.H, from_acc<scalar_t>(gates.q));
    }
  }
}

// The state before the step, as it came from memory.
template <typename scalar_t, typename acc_t>
GRU_DEVICE scalar_t previous_state(const GruStepBwdParams<scalar_t, acc_t>& p, int64_t row, int64_t unit) {
  const scalar_t* const from = row < p.prev_rows ? p.y_prev + row * p.y_stride + unit
                               : p.h0 != nullptr ? p.h0 + row * p.H + unit
                                                 : nullptr;
  return device::load_if_any(from);
}

// What the backward of a step begins with, of one unit of one row.
template <typename scalar_t, typename acc_t>
struct StepGradient {
  LoadedMasks masks;
  acc_t factor;  // of h in the recurrent product
  acc_t h;       // the state before the step
  acc_t d;       // dL/dh after it

  // False where the sequence has ended: d is the gradient of its h0 then, and stored as that.
  GRU_DEVICE bool load(const GruStepBwdParams<scalar_t, acc_t>& p, int64_t row, int64_t unit) {
    const bool has_step = row < p.rows, has_product = row < p.product_rows;
    const int64_t element = row * p.H + unit;
    masks = load_masks(p.masks, has_step, element);
    const int recurrent_mask = load_mask(p.masks.recurrent, element);
    d = load_global(p.dh + element);
    const acc_t product = has_product ? load_global(p.dh_product + element) : acc_t(0);
    factor = recurrent_factor(p.masks, recurrent_mask != 0);
    if (!has_step) {
      if (has_product) d += product * factor;
      store_global(p.dh + element, d);
      return false;
    }
    h = to_acc(previous_state(p, row, unit));
    if (has_product) d += product * factor;
    if (p.dy != nullptr) d += to_acc(load_global(p.dy + row * p.dy_stride + unit));
    return true;
  }
};

// Grid: as forward, for max(rows, product_rows) rows.
template <typename scalar_t>
GRU_KERNEL(kStepThreads, 2)
gru_step_bwd_kernel(const GruStepBwdParams<scalar_t, device::acc_type<scalar_t>> p) {
  using acc_t = device::acc_type<scalar_t>;
  const StepPlace place(p.H);
  if (place.unit >= p.H) return;
  const int64_t u = place.unit;
  const int64_t last_row = p.rows > p.product_rows ? p.rows : p.product_rows;
  for (int64_t row = place.first_row; row < last_row; row += place.row_stride) {
    StepGradient<scalar_t, acc_t> step;
    if (!step.load(p, row, u)) continue;
    const int64_t element = row * p.H + u;
    const scalar_t* saved = p.gates + row * 4 * p.H + u;
    const Gates<acc_t> gates{to_acc(load_global(saved)), to_acc(load_global(saved + p.H)),
                             to_acc(load_global(saved + 2 * p.H)), to_acc(load_global(saved + 3 * p.H))};
    GateGrads<acc_t> grads;
    store_global(p.dh + element, p.masks.any ? cell_bwd(gates, step.h, step.d, grads, cell_masks(p.masks, step.masks))
                                             : cell_bwd(gates, step.h, step.d, grads));
    scalar_t* const dgates = p.dgates + row * 4 * p.H + u;
    store_global(dgates, from_acc<scalar_t>(grads.n));
    store_global(dgates + p.H, from_acc<scalar_t>(grads.r));
    store_global(dgates + 2 * p.H, from_acc<scalar_t>(grads.z));
    store_global(dgates + 3 * p.H, from_acc<scalar_t>(grads.q));
    if (p.h_operand != nullptr) store_global(p.h_operand + element, from_acc<scalar_t>(step.h * step.factor));
  }
}

// Blocks for `rows` rows: a multiple of the tiles across H, and of rows of tiles as many as a grid may have.
inline int step_blocks(int64_t rows, int64_t H, int64_t most_blocks = INT32_MAX) {
  const int64_t unit_tiles = (H + kStepUnits - 1) / kStepUnits;
  const int64_t row_tiles = (rows + kStepRows - 1) / kStepRows;
  const int64_t most_row_tiles = most_blocks / unit_tiles;
  return static_cast<int>(unit_tiles * (row_tiles < most_row_tiles ? row_tiles : most_row_tiles));
}

}  // namespace gru_ext
