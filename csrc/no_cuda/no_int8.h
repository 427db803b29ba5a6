// What `gru_int8` says of CUDA tensors, in every build.
#pragma once

#include <torch/library.h>

namespace gru_ext {

inline void no_int8_cuda_kernels(const c10::OperatorHandle&, torch::jit::Stack*) {
  TORCH_CHECK_NOT_IMPLEMENTED(false,
                              "gru: expected tensors on the CPU, got CUDA tensors: int8 weights have kernels for CPUs"
                              " only");
}

inline void refuse_int8(torch::Library& m) {
  m.impl("gru_int8", torch::CppFunction::makeFromBoxedFunction<&no_int8_cuda_kernels>());
}

}  // namespace gru_ext
