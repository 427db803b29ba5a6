// Loads the one-step kernels of a dtype; their instantiations include it.
#pragma once

#include "cuda/load.cuh"
#include "cuda/one_step/one_step.cuh"

namespace gru_ext {

template <typename scalar_t>
bool load_gru_one_step_kernels() {
  return load_kernels(gru_one_step_fwd_kernel<scalar_t, 1>, gru_one_step_fwd_kernel<scalar_t, 2>,
                      gru_one_step_fwd_kernel<scalar_t, 4>, gru_one_step_fwd_kernel<scalar_t, kOneStepRows>);
}

}  // namespace gru_ext
