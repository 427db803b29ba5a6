// The launch of the one-step kernel, defined beside it and compiled for each dtype in instantiations/.
#pragma once

#include "cuda/device.h"
#include "cuda/params.h"

namespace gru_ext {

// Returns null, or what went wrong.
template <typename scalar_t>
const char* launch_gru_one_step_fwd(const GruOneStepFwdParams<scalar_t>& p, Stream stream);

}  // namespace gru_ext
