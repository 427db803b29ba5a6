// The schemas of `prepare` and `gru_prepared`, and that results have no gradient.
#include "op/prepared.h"

#include <torch/library.h>

#include "op/registration.h"

TORCH_LIBRARY_FRAGMENT(gru_ext, m) {
  if (!gru_ext::is_first_copy()) return;
  m.def(GRU_PREPARE_SCHEMA);
  m.def(GRU_PREPARED_SCHEMA);
}

// For inference: there is no gradient.
TORCH_LIBRARY_IMPL(gru_ext, Autograd, m) {
  if (!gru_ext::is_first_copy()) return;
  m.impl("prepare", torch::CppFunction::makeFallthrough());
  m.impl("gru_prepared", torch::CppFunction::makeFallthrough());
}
