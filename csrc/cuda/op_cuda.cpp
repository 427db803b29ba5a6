// What the CUDA backend registers.
#include "cuda/operators.h"
#include "no_cuda/no_int8.h"
#include "op/registration.h"

TORCH_LIBRARY_FRAGMENT(gru_ext, m) {
  if (!gru_ext::is_first_copy()) return;
  m.def("has_cuda_kernels() -> bool", [] { return true; });
  gru_ext::define_kernel_choice(m);
}

TORCH_LIBRARY_IMPL(gru_ext, CUDA, m) {
  if (!gru_ext::is_first_copy()) return;
  gru_ext::implement_operators(m);
  gru_ext::refuse_int8(m);
}
