// A layer by a persistent kernel: both directions, of all members, in one launch. On the current device, and without
// waiting for it. `stream` is the current one, on which torch's products run.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "cell/masks.h"
#include "cuda/persistent/kernel.h"
#include "cuda/products.h"
#include "op/check.h"

namespace gru_ext {

// The masks of each direction, which the streamed kernels take; none in a plain layer.
struct PersistentMasks {
  DirectionMasks<float> of[2];
};

// Letters and shapes as in op/layer.h, with members before where the call has some; h0 is undefined for zero, gates
// where they are not saved. y, h_n and gates are written. Returns null, or what went wrong with the launch.
const char* persistent_fwd(const PersistentKernel& kernel, const Sequence& s, const at::Tensor& x, const at::Tensor& h0,
                           at::TensorList weights, const PersistentMasks& masks, const at::Tensor& y,
                           const at::Tensor& h_n, const at::Tensor& gates, Stream stream);

// dy and dh_n are undefined for zero; dy has unit stride in its last dimension. Written are dh0 (D, B, H), `grads`, one
// of each direction, and dx (N, I); the last two are in the dtype of the sums, and undefined where not needed.
const char* persistent_bwd(const PersistentKernel& kernel, const Sequence& s, const at::Tensor& x, const at::Tensor& h0,
                           at::TensorList weights, const PersistentMasks& masks, const at::Tensor& dy,
                           const at::Tensor& dh_n, const at::Tensor& y, const at::Tensor& gates, const at::Tensor& dh0,
                           std::vector<DirectionGrads>& grads, const at::Tensor& dx, Stream stream);

}  // namespace gru_ext
