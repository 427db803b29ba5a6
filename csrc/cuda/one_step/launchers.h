// The launch of the one-step kernel, defined in launch.cuh and compiled for each dtype in instantiations/.
#pragma once

#include "cuda/device.h"
#include "cuda/params.h"

namespace gru_ext {

// Returns null, or what went wrong.
template <typename scalar_t>
const char* launch_gru_one_step_fwd(const GruOneStepFwdParams<scalar_t>& p, Stream stream);

// Whether those of the dtype are loaded now, so that no launch has to load them.
template <typename scalar_t>
bool load_gru_one_step_kernels();

}  // namespace gru_ext
