// Launches of the stepwise kernels; the instantiations include it.
#pragma once

#include <algorithm>

#include "cuda/launch.cuh"
#include "cuda/stepwise/launchers.h"
#include "cuda/stepwise/step_layer_norm.cuh"
#include "cuda/stepwise/step_reset_before.cuh"

namespace gru_ext {

// A kernel of the cell, for `rows` rows.
template <typename Params>
const char* launch_step(void (*kernel)(Params), int64_t rows, const Params& p, Stream stream) {
  kernel<<<step_blocks(rows, p.H), kStepThreads, 0, static_cast<cudaStream_t>(stream)>>>(p);
  return words_of(cudaGetLastError());
}

template <typename scalar_t, typename acc_t>
int64_t rows_of_step(const GruStepBwdParams<scalar_t, acc_t>& p) {
  return std::max(p.rows, p.product_rows);
}

template <typename scalar_t, typename acc_t>
const char* launch_gru_step_fwd(const GruStepFwdParams<scalar_t, acc_t>& p, Stream stream) {
  return launch_step(gru_step_fwd_kernel<scalar_t>, p.rows, p, stream);
}

template <typename scalar_t, typename acc_t>
const char* launch_gru_step_bwd(const GruStepBwdParams<scalar_t, acc_t>& p, Stream stream) {
  return launch_step(gru_step_bwd_kernel<scalar_t>, rows_of_step(p), p, stream);
}

template <typename scalar_t, typename acc_t>
const char* launch_gru_step_reset_fwd(const GruStepFwdParams<scalar_t, acc_t>& p, Stream stream) {
  return launch_step(gru_step_reset_fwd_kernel<scalar_t>, p.rows, p, stream);
}

template <typename scalar_t, typename acc_t>
const char* launch_gru_step_candidate_fwd(const GruStepFwdParams<scalar_t, acc_t>& p, Stream stream) {
  return launch_step(gru_step_candidate_fwd_kernel<scalar_t>, p.rows, p, stream);
}

template <typename scalar_t, typename acc_t>
const char* launch_gru_step_candidate_bwd(const GruStepBwdParams<scalar_t, acc_t>& p, Stream stream) {
  return launch_step(gru_step_candidate_bwd_kernel<scalar_t>, rows_of_step(p), p, stream);
}

template <typename scalar_t, typename acc_t>
const char* launch_gru_step_reset_bwd(const GruStepBwdParams<scalar_t, acc_t>& p, Stream stream) {
  return launch_step(gru_step_reset_bwd_kernel<scalar_t>, p.rows, p, stream);
}

// A kernel of layer normalisation.
template <typename acc_t, typename Params>
const char* launch_norm(void (*kernel)(Params), const Params& p, Stream stream) {
  constexpr int64_t kMostBlocks = int64_t{1} << 16;
  const int blocks = static_cast<int>(std::min(p.rows, kMostBlocks));
  kernel<<<blocks, kStepThreads, kStepThreads * sizeof(acc_t), static_cast<cudaStream_t>(stream)>>>(p);
  return words_of(cudaGetLastError());
}

template <typename scalar_t, typename acc_t>
const char* launch_gru_step_norm_fwd(const GruStepNormFwdParams<scalar_t, acc_t>& p, Stream stream) {
  return launch_norm<acc_t>(gru_step_norm_fwd_kernel<scalar_t>, p, stream);
}

template <typename scalar_t>
const char* launch_gru_step_norm_bwd(const GruStepNormBwdParams<scalar_t>& p, Stream stream) {
  return launch_norm<device::acc_type<scalar_t>>(gru_step_norm_bwd_kernel<scalar_t>, p, stream);
}

template <typename scalar_t>
bool load_gru_step_kernels() {
  return load_kernels(gru_step_fwd_kernel<scalar_t>, gru_step_bwd_kernel<scalar_t>, gru_step_reset_fwd_kernel<scalar_t>,
                      gru_step_reset_bwd_kernel<scalar_t>, gru_step_candidate_fwd_kernel<scalar_t>,
                      gru_step_candidate_bwd_kernel<scalar_t>, gru_step_norm_fwd_kernel<scalar_t>,
                      gru_step_norm_bwd_kernel<scalar_t>);
}

}  // namespace gru_ext
