// What the CUDA backend registers.
#include "cuda/operators.h"
#include "op/registration.h"

TORCH_LIBRARY_FRAGMENT(gru_ext, m) {
  if (gru_ext::is_first_copy()) gru_ext::define_kernel_choice(m);
}

TORCH_LIBRARY_IMPL(gru_ext, CUDA, m) {
  if (gru_ext::is_first_copy()) gru_ext::implement_operators(m);
}
