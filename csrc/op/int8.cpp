// The schema of `gru_int8`, and what it says of a backend without it.
#include "op/int8.h"

#include <torch/library.h>

#include "op/registration.h"

namespace gru_ext {
namespace {

void no_int8_cuda_kernels(const c10::OperatorHandle&, torch::jit::Stack*) {
  TORCH_CHECK_NOT_IMPLEMENTED(false,
                              "gru: expected tensors on the CPU, got CUDA tensors: int8 weights have kernels for CPUs"
                              " only");
}

}  // namespace
}  // namespace gru_ext

TORCH_LIBRARY_FRAGMENT(gru_ext, m) {
  if (!gru_ext::is_first_copy()) return;
  m.set_python_module("gru_ext.tracing");
  m.def(
      "gru_int8(Tensor x, Tensor? hx, Tensor[] weights, Tensor? batch_sizes, bool bidirectional,"
      " int blocks=1)"
      " -> (Tensor y, Tensor h_n)");
}

TORCH_LIBRARY_IMPL(gru_ext, CUDA, m) {
  if (!gru_ext::is_first_copy()) return;
  m.impl("gru_int8", torch::CppFunction::makeFromBoxedFunction<&gru_ext::no_int8_cuda_kernels>());
}

// For inference: its results have no gradient.
TORCH_LIBRARY_IMPL(gru_ext, Autograd, m) {
  if (!gru_ext::is_first_copy()) return;
  m.impl("gru_int8", torch::CppFunction::makeFallthrough());
}
