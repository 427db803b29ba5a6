// The kernels as the host calls them. Defined beside each kernel, compiled for the dtypes in instantiations/.
#pragma once

#include <cuda_runtime_api.h>

#include "../params.h"

namespace gru_ext {

// gru_step.cuh. Each returns the error of its launch.
template <typename scalar_t, typename acc_t>
cudaError_t launch_gru_step_fwd(const GruStepFwdParams<scalar_t, acc_t>& p, cudaStream_t stream);
template <typename scalar_t, typename acc_t>
cudaError_t launch_gru_step_bwd(const GruStepBwdParams<scalar_t, acc_t>& p, cudaStream_t stream);

}  // namespace gru_ext
