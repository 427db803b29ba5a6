// The operators `prepare` and `gru_prepared`: all layers of a GRU, for inference, with weights arranged once. No result
// has a gradient.
//
// Letters as in layer.h, and L layers. `prepare` returns bytes that only `gru_prepared` reads, in this process: they
// are in the order of this machine's kernels. They hold copies, and where the weights were, in which version:
// `gru_prepared` throws where these have changed.
#include <torch/library.h>

#include "op/registration.h"

TORCH_LIBRARY_FRAGMENT(gru_ext, m) {
  if (!gru_ext::is_first_copy()) return;
  // weights: of all layers, as Layer::weights. zoneout, reset_after, layer_norm: as in Variant.
  m.def(
      "prepare(Tensor[] weights, int num_layers, bool bidirectional, bool bias, float zoneout=0, "
      "bool reset_after=True, int layer_norm=0) -> Tensor");
  // x (T, B, I) or, with batch_first, (B, T, I), T at least 1; hx (L*D, B, H), none for zero; weights: those that were
  // prepared. Returns y, laid out as x, and h_n (L*D, B, H).
  m.def(
      "gru_prepared(Tensor x, Tensor? hx, Tensor[] weights, Tensor prepared, bool batch_first=False) -> "
      "(Tensor y, Tensor h_n)");
}

TORCH_LIBRARY_IMPL(gru_ext, Autograd, m) {
  if (!gru_ext::is_first_copy()) return;
  m.impl("prepare", torch::CppFunction::makeFallthrough());
  m.impl("gru_prepared", torch::CppFunction::makeFallthrough());
}
