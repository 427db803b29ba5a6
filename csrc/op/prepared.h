// The operators `prepare` and `gru_prepared`: all layers of a GRU whose weights were arranged once, for inference.
//
// Letters as in layer.h, and L layers. `prepare` returns bytes that only `gru_prepared` reads, in this process: they
// are in the order of this machine's kernels. They hold copies, and where the weights were, in which version:
// `gru_prepared` throws where these have changed.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace gru_ext {

// weights: of all layers, as Layer::weights. zoneout, reset_after, layer_norm: as in Variant.
#define GRU_PREPARE_SCHEMA                                                                     \
  "prepare(Tensor[] weights, int num_layers, bool bidirectional, bool bias, float zoneout=0, " \
  "bool reset_after=True, int layer_norm=0) -> Tensor"
// x (T, B, I) or, with batch_first, (B, T, I), T at least 1; hx (L*D, B, H), none for zero; weights: those that were
// prepared. Returns y, laid out as x, and h_n (L*D, B, H).
#define GRU_PREPARED_SCHEMA                                                                           \
  "gru_prepared(Tensor x, Tensor? hx, Tensor[] weights, Tensor prepared, bool batch_first=False) -> " \
  "(Tensor y, Tensor h_n)"

}  // namespace gru_ext
