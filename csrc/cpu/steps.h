// The CPU's step kernels: the gates of one time step, forward and backward, for a range of rows.
// One implementation per instruction set (steps_*.cpp); `step_kernels` returns the one in use.
#pragma once

#include <cstdint>

#include "../params.h"

namespace gru_ext {

template <typename scalar_t>
struct StepKernels {
  void (*fwd)(const StepFwd<scalar_t>&, int64_t row_begin, int64_t row_end);
  void (*bwd)(const StepBwd<scalar_t>&, int64_t row_begin, int64_t row_end);
};

template <typename scalar_t>
StepKernels<scalar_t> step_kernels();

// One declaration per instruction set; see isa.h for their order.
template <typename scalar_t>
StepKernels<scalar_t> step_kernels_portable();
#if defined(__x86_64__)
template <typename scalar_t>
StepKernels<scalar_t> step_kernels_avx2();
template <typename scalar_t>
StepKernels<scalar_t> step_kernels_avx512();
#endif

}  // namespace gru_ext
