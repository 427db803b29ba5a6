// The operators `gru_fwd_blocks` and `gru_bwd_blocks`: a layer whose recurrent weights are block-diagonal
// (src/gru_ext/blocks.py).
//
// Tensors are those of layer.h, with two exceptions: weight_hh is (3H, H / G), where the units of block g, of which
// there are H / G from g H / G on, have in their rows of each gate what multiplies the state of the block; and gates
// have a first dimension of the G blocks, each of whose gates are those of a layer of H / G units.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

#include "op/layer.h"

namespace gru_ext {

// G, by the weights.
inline int64_t blocks_of(at::TensorList weights) {
  const bool given = weights.size() > 1 && weights[0].dim() == 2 && weights[1].dim() == 2;
  const int64_t units = given ? 3 * weights[1].size(1) : 0;
  TORCH_CHECK(units > 0 && weights[0].size(0) > 0 && weights[0].size(0) % units == 0,
              "gru: expected weight_ih of shape (3H, I) and weight_hh of shape (3H, H / G), got ",
              given ? weights[0].sizes() : at::IntArrayRef(), " and ", given ? weights[1].sizes() : at::IntArrayRef());
  return weights[0].size(0) / units;
}

// Block g's part of a call. `h`: its units.
struct Block {
  int64_t g, h;

  // Views of tensors (..., H): the block's units; and of y and what is like it, (..., D H): all from the first of them.
  at::Tensor units(const at::Tensor& tensor) const { return tensor.narrow(-1, g * h, h); }
  at::Tensor from_first_unit(const at::Tensor& states) const { return states.slice(-1, g * h); }
  // A view (3, h, ...) of a weight (3H, ...).
  at::Tensor rows(const at::Tensor& weight) const { return weight.unflatten(0, {3, -1, h}).select(1, g); }
};

}  // namespace gru_ext
