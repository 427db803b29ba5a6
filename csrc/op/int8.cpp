// The schema of `gru_int8`.
#include "op/int8.h"

#include <torch/library.h>

#include "op/registration.h"

TORCH_LIBRARY_FRAGMENT(gru_ext, m) {
  if (!gru_ext::is_first_copy()) return;
  m.set_python_module("gru_ext.tracing");
  m.def(
      "gru_int8(Tensor x, Tensor? hx, Tensor[] weights, Tensor? batch_sizes, bool bidirectional,"
      " int blocks=1)"
      " -> (Tensor y, Tensor h_n)");
}

// For inference: its results have no gradient.
TORCH_LIBRARY_IMPL(gru_ext, Autograd, m) {
  if (!gru_ext::is_first_copy()) return;
  m.impl("gru_int8", torch::CppFunction::makeFallthrough());
}
