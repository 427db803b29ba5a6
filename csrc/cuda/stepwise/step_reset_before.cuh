// The stepwise kernels with the reset gate before the recurrent product (Cho et al. 2014): a step is two products, each
// followed by one kernel. Blocks and threads as in step.cuh.
#pragma once

#include "cuda/stepwise/step.cuh"

namespace gru_ext {

// First part, forward: r, z and r * h, from the product of both gates. Grid: a multiple of the tiles across H.
template <typename scalar_t>
GRU_KERNEL(kStepThreads, 2)
gru_step_reset_fwd_kernel(const GruStepFwdParams<scalar_t, device::acc_type<scalar_t>> p) {
  using acc_t = device::acc_type<scalar_t>;
  const StepPlace place(p.H);
  if (place.unit >= p.H) return;
  const int64_t u = place.unit;
  acc_t bias_r = 0, bias_z = 0;
  if (p.bias_ih != nullptr) {
    bias_r = to_acc(load_global(p.bias_ih + u)) + to_acc(load_global(p.bias_hh + u));
    bias_z = to_acc(load_global(p.bias_ih + p.H + u)) + to_acc(load_global(p.bias_hh + p.H + u));
  }
  for (int64_t row = place.first_row; row < p.rows; row += place.row_stride) {
    const int64_t element = row * p.H + u;
    const int recurrent_mask = load_mask(p.masks.recurrent, element);
    const acc_t* a_x = p.a_x + row * 3 * p.H + u;
    const acc_t* a_h = p.a_h + row * 2 * p.H + u;
    const acc_t a_r = load_global(a_x) + load_global(a_h) + bias_r;
    const acc_t a_z = load_global(a_x + p.H) + load_global(a_h + p.H) + bias_z;
    ResetBeforeGates<acc_t> gates;
    const acc_t h = load_global(p.h + element) * recurrent_factor(p.masks, recurrent_mask != 0);
    const acc_t reset = reset_fwd<device::AccurateMath<acc_t>>(a_r, a_z, h, gates);
    store_global(p.reset + element, from_acc<scalar_t>(reset));
    store_global(p.z + element, gates.z);
    if (p.gates != nullptr) {
      scalar_t* const saved = p.gates + row * 3 * p.H + u;
      store_global(saved, from_acc<scalar_t>(gates.r));
      store_global(saved + p.H, from_acc<scalar_t>(gates.z));
    }
  }
}

// Second part, forward: n and the next state, from the product of r * h. Grid as above.
template <typename scalar_t>
GRU_KERNEL(kStepThreads, 2)
gru_step_candidate_fwd_kernel(const GruStepFwdParams<scalar_t, device::acc_type<scalar_t>> p) {
  using acc_t = device::acc_type<scalar_t>;
  const StepPlace place(p.H);
  if (place.unit >= p.H) return;
  const int64_t u = place.unit;
  acc_t bias_n = 0;
  if (p.bias_ih != nullptr) {
    bias_n = to_acc(load_global(p.bias_ih + 2 * p.H + u)) + to_acc(load_global(p.bias_hh + 2 * p.H + u));
  }
  for (int64_t row = place.first_row; row < p.rows; row += place.row_stride) {
    const int64_t element = row * p.H + u;
    const LoadedMasks masks = load_masks(p.masks, true, element);
    const int recurrent_mask = load_mask(p.masks.recurrent, element);
    const acc_t a_n = load_global(p.a_x + row * 3 * p.H + 2 * p.H + u) + load_global(p.a_reset + element) + bias_n;
    const acc_t h = load_global(p.h + element);
    ResetBeforeGates<acc_t> gates;
    gates.z = load_global(p.z + element);
    using Math = device::AccurateMath<acc_t>;
    const acc_t next = p.masks.any ? candidate_fwd<Math>(a_n, h, gates, cell_masks(p.masks, masks))
                                   : candidate_fwd<Math>(a_n, h, gates);
    store_state(p, row, u, next, recurrent_mask);
    if (p.gates != nullptr) store_global(p.gates + row * 3 * p.H + 2 * p.H + u, from_acc<scalar_t>(gates.n));
  }
}

// Second part, backwards: the gradients of n and z. Grid: for max(rows, product_rows) rows.
template <typename scalar_t>
GRU_KERNEL(kStepThreads, 2)
gru_step_candidate_bwd_kernel(const GruStepBwdParams<scalar_t, device::acc_type<scalar_t>> p) {
  using acc_t = device::acc_type<scalar_t>;
  const StepPlace place(p.H);
  if (place.unit >= p.H) return;
  const int64_t u = place.unit;
  const int64_t last_row = p.rows > p.product_rows ? p.rows : p.product_rows;
  for (int64_t row = place.first_row; row < last_row; row += place.row_stride) {
    StepGradient<scalar_t, acc_t> step;
    if (!step.load(p, row, u)) continue;
    const int64_t element = row * p.H + u;
    const scalar_t* saved = p.gates + row * 3 * p.H + u;
    const ResetBeforeGates<acc_t> gates{to_acc(load_global(saved)), to_acc(load_global(saved + p.H)),
                                        to_acc(load_global(saved + 2 * p.H))};
    ResetBeforeGrads<acc_t> grads;
    store_global(p.dh + element, p.masks.any
                                     ? candidate_bwd(gates, step.h, step.d, grads, cell_masks(p.masks, step.masks))
                                     : candidate_bwd(gates, step.h, step.d, grads));
    scalar_t* const dgates = p.dgates + row * 3 * p.H + u;
    store_global(dgates, from_acc<scalar_t>(grads.n));
    store_global(dgates + 2 * p.H, from_acc<scalar_t>(grads.z));
    if (p.h_operand != nullptr) {
      store_global(p.h_operand + element, from_acc<scalar_t>(step.h * step.factor));
      store_global(p.reset + element, from_acc<scalar_t>(gates.r * step.h * step.factor));
    }
  }
}

// First part, backwards: the gradient of r, from the product that gives that of r * h. Grid: as forward.
template <typename scalar_t>
GRU_KERNEL(kStepThreads, 2)
gru_step_reset_bwd_kernel(const GruStepBwdParams<scalar_t, device::acc_type<scalar_t>> p) {
  using acc_t = device::acc_type<scalar_t>;
  const StepPlace place(p.H);
  if (place.unit >= p.H) return;
  const int64_t u = place.unit;
  for (int64_t row = place.first_row; row < p.rows; row += place.row_stride) {
    const int64_t element = row * p.H + u;
    const scalar_t previous = previous_state(p, row, u);
    const acc_t dreset = load_global(p.dreset + element), dh = load_global(p.dh + element);
    ResetBeforeGates<acc_t> gates;
    gates.r = to_acc(load_global(p.gates + row * 3 * p.H + u));
    const int recurrent_mask = load_mask(p.masks.recurrent, element);
    ResetBeforeGrads<acc_t> grads;
    const acc_t factor = recurrent_factor(p.masks, recurrent_mask != 0);
    const acc_t h = to_acc(previous) * factor;
    const acc_t past_reset = reset_bwd(gates, h, dreset, grads) * factor;
    store_global(p.dh + element, dh + past_reset);
    store_global(p.dgates + row * 3 * p.H + p.H + u, from_acc<scalar_t>(grads.r));
  }
}

}  // namespace gru_ext
