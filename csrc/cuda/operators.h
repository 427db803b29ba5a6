// The operators that the CUDA backend implements, and what src/gru_ext/kernel_choice.py asks of it: for the library of
// op_cuda.cpp, or for one of the tests', in which they serve CPU tensors.
#pragma once

#include <torch/library.h>

#include "cuda/choice/asked.h"
#include "cuda/choice/autotune.h"
#include "cuda/persistent/device_facts.h"
#include "op/schemas.h"

namespace gru_ext {

// run.cpp
FwdResult gru_fwd_cuda(const Layer& layer, bool save_gates, bool save_y);
BwdResult gru_bwd_cuda(const Backward& call);
FwdResult gru_fwd_members_cuda(const Layer& layer, bool save_gates);
BwdResult gru_bwd_members_cuda(const Backward& call);

inline void define_kernel_choice(torch::Library& m) {
  m.def(
      "cuda_kernel(ScalarType dtype, int T, int B, int H, bool bidirectional, bool packed, bool keeps_gates, bool "
      "backward, bool masked=False, int members=1)"
      " -> (str name, str reason)",
      &cuda_kernel);
  m.def("cuda_kernel_names(ScalarType dtype, bool backward) -> str[]", &cuda_kernel_names);
  m.def("use_cuda_kernels(str forward, str backward) -> (str, str)", &use_cuda_kernels);
  m.def("set_cuda_wait_limit(float seconds) -> float", &set_cuda_wait_limit);
  m.def("autotune(bool enable, str path) -> ()", &autotune);
}

inline void implement_operators(torch::Library& m) {
  m.impl("gru_fwd", gru_fwd_operator<gru_fwd_cuda>);
  m.impl("gru_bwd", gru_bwd_operator<gru_bwd_cuda>);
  m.impl("gru_fwd_members", gru_fwd_members_operator<gru_fwd_members_cuda>);
  m.impl("gru_bwd_members", gru_bwd_operator<gru_bwd_members_cuda>);
}

}  // namespace gru_ext
