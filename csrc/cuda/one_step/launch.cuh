// The launch of the one-step kernel; the instantiations include it.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/one_step/launchers.h"
#include "cuda/one_step/one_step.cuh"

namespace gru_ext {

template <typename scalar_t>
const char* launch_gru_one_step_fwd(const GruOneStepFwdParams<scalar_t>& p, Stream stream) {
  return with_one_step_launch(p, [&](auto kernel, const auto& parameters, const OneStepShape& shape) {
    kernel<<<shape.blocks, shape.threads, shape.shared_bytes, static_cast<cudaStream_t>(stream)>>>(parameters);
    return words_of(cudaGetLastError());
  });
}

template <typename scalar_t>
bool load_gru_one_step_kernels() {
  return load_kernels(gru_one_step_fwd_kernel<scalar_t, 1>, gru_one_step_fwd_kernel<scalar_t, 2>,
                      gru_one_step_fwd_kernel<scalar_t, 4>, gru_one_step_fwd_kernel<scalar_t, kOneStepRows>);
}

}  // namespace gru_ext
