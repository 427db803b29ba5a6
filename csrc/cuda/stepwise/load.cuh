// Loads the stepwise kernels of a dtype; their instantiations include it.
#pragma once

#include "cuda/load.cuh"
#include "cuda/stepwise/step_layer_norm.cuh"
#include "cuda/stepwise/step_reset_before.cuh"

namespace gru_ext {

template <typename scalar_t>
bool load_gru_step_kernels() {
  return load_kernels(gru_step_fwd_kernel<scalar_t>, gru_step_bwd_kernel<scalar_t>, gru_step_reset_fwd_kernel<scalar_t>,
                      gru_step_reset_bwd_kernel<scalar_t>, gru_step_candidate_fwd_kernel<scalar_t>,
                      gru_step_candidate_bwd_kernel<scalar_t>, gru_step_norm_fwd_kernel<scalar_t>,
                      gru_step_norm_bwd_kernel<scalar_t>);
}

}  // namespace gru_ext
