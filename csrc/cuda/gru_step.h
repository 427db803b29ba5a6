// The host side of the stepwise kernels: one direction of one layer, any dtype, any shape. On the current device, and
// without waiting for it. `stream` is the current one, on which torch's products run.
#pragma once

#include <ATen/core/Tensor.h>

#include "../check.h"
#include "../chunks.h"
#include "../masks.h"
#include "launchers.h"
#include "products.h"

namespace gru_ext {

// One direction of a layer, in the operator's dtype; letters and shapes as in ../gru.h.
struct StepDirection {
  bool reverse;
  bool reset_after;             // whether the reset gate comes after the recurrent product
  at::Tensor weight_ih;         // (3H, I)
  at::Tensor weight_hh;         // (3H, H)
  at::Tensor bias_ih, bias_hh;  // (3H), contiguous; undefined without biases
  // (N, H), (N, H) and (B, H), contiguous, undefined where there is none; and the rates, see Variant in ../gru.h.
  at::Tensor zoneout_mask, candidate_mask, recurrent_mask;
  double zoneout, candidate_dropout, recurrent_dropout;
  int layer_norm;               // normalisations of each product
  at::Tensor gain_ih, gain_hh;  // (3H), contiguous; undefined without them
};

// The masks of all steps.
template <typename acc_t>
DirectionMasks<acc_t> masks_of(const StepDirection& direction) {
  const auto data = [](const at::Tensor& mask) { return mask.defined() ? mask.const_data_ptr<bool>() : nullptr; };
  DirectionMasks<acc_t> masks;
  masks.zoneout = data(direction.zoneout_mask);
  masks.candidate = data(direction.candidate_mask);
  masks.recurrent = data(direction.recurrent_mask);
  masks.kept = static_cast<acc_t>(direction.zoneout);
  masks.candidate_scale = static_cast<acc_t>(1 / (1 - direction.candidate_dropout));
  masks.recurrent_scale = static_cast<acc_t>(1 / (1 - direction.recurrent_dropout));
  masks.any = masks.zoneout != nullptr || masks.candidate != nullptr || masks.recurrent != nullptr || masks.kept != 0;
  return masks;
}

// Those of the steps from the one whose first row is `row`.
template <typename acc_t>
DirectionMasks<acc_t> masks_of_step(DirectionMasks<acc_t> masks, int64_t row, int64_t H) {
  if (masks.zoneout != nullptr) masks.zoneout += row * H;
  if (masks.candidate != nullptr) masks.candidate += row * H;
  return masks;
}

// `y` is the direction's H columns of y or, where it is not saved, undefined; `gates` its part of the gates, see
// ../gru.h, or undefined, `h` (B, H) the state, in the dtype of the sums: overwritten step by step, at the end each
// row's last one.
void gru_step_fwd(const Sequence& s, const at::Tensor& x, const StepDirection& direction, const at::Tensor& y,
                  const at::Tensor& gates, const at::Tensor& h, Stream stream);

// `dy` and `y` are the direction's H columns; dy undefined for zero. `h0` (B, H), contiguous, undefined for zero. `dh`
// (B, H) in the dtype of the sums enters as the gradient of the last state and, with need_dhx, leaves as that of h0.
// `gates` is undefined where they were not saved: they are then computed again, chunk by chunk.
// `grads` and dx (N, I), both in the dtype of the sums, are undefined where not needed; dx is added to unless `first`.
void gru_step_bwd(const Sequence& s, const at::Tensor& x, const StepDirection& direction, const at::Tensor& dy,
                  const at::Tensor& y, const at::Tensor& gates, const at::Tensor& h0, const at::Tensor& dh,
                  bool need_dhx, bool first, DirectionGrads& grads, const at::Tensor& dx, Stream stream);

// Computes the gates of a chunk of steps again, (rows, 4, H); reset gate before: (rows, 3, H).
void gru_step_gates(const Sequence& s, const Chunk& chunk, const at::Tensor& x, const StepDirection& direction,
                    const at::Tensor& y, const at::Tensor& h0, const at::Tensor& gates, Stream stream);

}  // namespace gru_ext
