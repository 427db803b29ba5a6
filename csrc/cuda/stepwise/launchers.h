// Launches of the stepwise kernels, defined in launch.cuh and compiled for each dtype in instantiations/. Each returns
// null, or what went wrong.
#pragma once

#include "cuda/device.h"
#include "cuda/params.h"

namespace gru_ext {

// step.cuh
template <typename scalar_t, typename acc_t>
const char* launch_gru_step_fwd(const GruStepFwdParams<scalar_t, acc_t>& p, Stream stream);
template <typename scalar_t, typename acc_t>
const char* launch_gru_step_bwd(const GruStepBwdParams<scalar_t, acc_t>& p, Stream stream);

// step_reset_before.cuh
template <typename scalar_t, typename acc_t>
const char* launch_gru_step_reset_fwd(const GruStepFwdParams<scalar_t, acc_t>& p, Stream stream);
template <typename scalar_t, typename acc_t>
const char* launch_gru_step_candidate_fwd(const GruStepFwdParams<scalar_t, acc_t>& p, Stream stream);
template <typename scalar_t, typename acc_t>
const char* launch_gru_step_candidate_bwd(const GruStepBwdParams<scalar_t, acc_t>& p, Stream stream);
template <typename scalar_t, typename acc_t>
const char* launch_gru_step_reset_bwd(const GruStepBwdParams<scalar_t, acc_t>& p, Stream stream);

// Whether those of the dtype are loaded now, so that no launch has to load them.
template <typename scalar_t>
bool load_gru_step_kernels();

// step_layer_norm.cuh
template <typename scalar_t, typename acc_t>
const char* launch_gru_step_norm_fwd(const GruStepNormFwdParams<scalar_t, acc_t>& p, Stream stream);
template <typename scalar_t>
const char* launch_gru_step_norm_bwd(const GruStepNormBwdParams<scalar_t>& p, Stream stream);

// All of them for a dtype.
#define GRU_STEP_LAUNCHERS(T, acc_t)                                                             \
  template const char* launch_gru_step_fwd(const GruStepFwdParams<T, acc_t>&, Stream);           \
  template const char* launch_gru_step_bwd(const GruStepBwdParams<T, acc_t>&, Stream);           \
  template const char* launch_gru_step_reset_fwd(const GruStepFwdParams<T, acc_t>&, Stream);     \
  template const char* launch_gru_step_candidate_fwd(const GruStepFwdParams<T, acc_t>&, Stream); \
  template const char* launch_gru_step_candidate_bwd(const GruStepBwdParams<T, acc_t>&, Stream); \
  template const char* launch_gru_step_reset_bwd(const GruStepBwdParams<T, acc_t>&, Stream);     \
  template const char* launch_gru_step_norm_fwd(const GruStepNormFwdParams<T, acc_t>&, Stream);  \
  template const char* launch_gru_step_norm_bwd(const GruStepNormBwdParams<T>&, Stream);         \
  template bool load_gru_step_kernels<T>();

}  // namespace gru_ext
