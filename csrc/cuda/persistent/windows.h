// A layer by a persistent kernel without its gates in memory: window after window of time steps, so that what is
// computed of all steps besides y and dx takes a bounded part of memory. On the current device; `stream` is the current
// one.
//
// The state, and its gradient, go from window to window in the operator's dtype. Layers of both directions are one
// window: a launch has both go through the same steps.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "cuda/persistent/all_steps.h"
#include "cuda/products.h"
#include "cuda/stepwise/steps.h"
#include "op/check.h"

namespace gru_ext {

// As persistent_fwd.
const char* windows_fwd(const PersistentKernel& kernel, const Sequence& s, const at::Tensor& x, const at::Tensor& h0,
                        at::TensorList weights, const PersistentMasks& masks, const at::Tensor& y,
                        const at::Tensor& h_n, Stream stream);

// As persistent_bwd, with the gates computed again by the stepwise kernels of `directions`, those of every member; dx
// is in the dtype of x.
const char* windows_bwd(const PersistentKernel& kernel, const Sequence& s, const at::Tensor& x, const at::Tensor& h0,
                        at::TensorList weights, const PersistentMasks& masks,
                        const std::vector<StepDirection>& directions, const at::Tensor& dy, const at::Tensor& dh_n,
                        const at::Tensor& y, const at::Tensor& dh0, std::vector<DirectionGrads>& grads,
                        const at::Tensor& dx, Stream stream);

}  // namespace gru_ext
