// The operators of the CUDA backend's host side on CPU tensors, and what else Python asks of it: for whichever library
// has the kernels behind it, in the emulator or of nvcc.
#pragma once

#include <torch/library.h>

#include "autotune.h"
#include "kernel_choice.h"
#include "operators.h"

namespace gru_ext {

inline void define_host_side(torch::Library& m) {
  m.def(GRU_FWD_SCHEMA);
  m.def(GRU_BWD_SCHEMA);
  m.def(
      "cuda_kernel(ScalarType dtype, int T, int B, int H, bool bidirectional, bool packed, bool keeps_gates, bool "
      "backward, bool masked=False)"
      " -> (str name, str reason)",
      &cuda_kernel);
  m.def("cuda_kernel_names(ScalarType dtype, bool backward) -> str[]", &cuda_kernel_names);
  m.def("use_cuda_kernels(str forward, str backward) -> (str, str)", &use_cuda_kernels);
  m.def("set_cuda_wait_limit(float seconds) -> float", &set_cuda_wait_limit);
  m.def("autotune(bool enable, str path) -> ()", &autotune);
}

inline void implement_host_side(torch::Library& m) {
  m.impl("gru_fwd", gru_fwd_operator<gru_fwd_cuda>);
  m.impl("gru_bwd", gru_bwd_operator<gru_bwd_cuda>);
}

}  // namespace gru_ext
