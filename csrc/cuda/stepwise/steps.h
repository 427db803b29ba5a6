// The host side of the stepwise kernels: one direction of one layer, any dtype, any shape. On the current device, and
// without waiting for it. `stream` is the current one, on which torch's products run.
#pragma once

#include <ATen/core/Tensor.h>

#include "cuda/device.h"
#include "cuda/products.h"
#include "cuda/stepwise/direction.h"
#include "op/check.h"
#include "op/chunks.h"

namespace gru_ext {

// `y` is the direction's H columns of y or, where it is not saved, undefined; `gates` its part of the gates, see
// op/layer.h, or undefined, `h` (B, H) the state, in the dtype of the sums: overwritten step by step, at the end each
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
