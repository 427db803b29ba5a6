// The kernels as the host calls them. Defined beside each kernel, compiled for the dtypes in instantiations/. No
// headers of CUDA or torch, so that the host side compiles, and runs under emulation, without CUDA.
#pragma once

#include "../params.h"

namespace gru_ext {

using Stream = void*;  // a cudaStream_t

// gru_step.cuh. Each returns null, or what went wrong with the launch.
template <typename scalar_t, typename acc_t>
const char* launch_gru_step_fwd(const GruStepFwdParams<scalar_t, acc_t>& p, Stream stream);
template <typename scalar_t, typename acc_t>
const char* launch_gru_step_bwd(const GruStepBwdParams<scalar_t, acc_t>& p, Stream stream);

}  // namespace gru_ext
