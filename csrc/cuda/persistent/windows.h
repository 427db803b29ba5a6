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

// As persistent_fwd, of a call without gates.
const char* windows_fwd(const PersistentKernel& kernel, const Sequence& s, const PersistentFwd& call);

// As persistent_bwd, with the gates computed again by the stepwise kernels of `directions`, those of every member; dx
// is in the dtype of x.
const char* windows_bwd(const PersistentKernel& kernel, const Sequence& s, const std::vector<StepDirection>& directions,
                        const PersistentBwd& call);

}  // namespace gru_ext
