// Matrix products of the CUDA backend, all through at::, and the precision they run in.
#pragma once

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "op/check.h"
#include "op/layer.h"

namespace gru_ext {

// Whether torch's switches allow TF32: for cuDNN's RNNs, for matrix products.
bool rnn_allows_tf32();
bool products_allow_tf32();

// While one lives, torch's products in this thread use no TF32 if torch's switch for cuDNN's RNNs forbids it. The other
// way round it does nothing: if that switch allows TF32, the switch for matrix products still decides. That one is of
// the whole process. To change it for a call would change the products of other threads.
class RnnPrecisionGuard {
 public:
  RnnPrecisionGuard();

 private:
  std::optional<at::NoTF32Guard> no_tf32_;
};

// A weight as `product_out` multiplies it fastest.
at::Tensor product_operand(const at::Tensor& weight);

// out = a b, for operands of one dtype; where they have three dimensions, of each member. `out` has their dtype; or
// they are half precisions and it is float, as are then all sums.
void product_out(at::Tensor out, const at::Tensor& a, const at::Tensor& b);

// Gradients of one direction's parameters, in the dtype of the sums; undefined where not needed. In a call with members
// these and all that they are made of have a first dimension of them; no family but the persistent ones has such calls.
struct DirectionGrads {
  at::Tensor weight_ih;  // (3H, I)
  at::Tensor weight_hh;  // (3H, H)
  at::Tensor gains;      // (6H) of gain_ih, then of gain_hh; undefined without layer normalisation
  at::Tensor bias;       // (4H) sums of the gate gradients, in their order n, r, z, q; reset gate before: (3H), no q
};

// For each direction, to be overwritten; with those of biases and gains where the layer has them.
std::vector<DirectionGrads> new_grads(const Sequence& s, const Layer& layer, bool need_dweights);
// As gru_bwd returns them, see op/layer.h.
std::vector<at::Tensor> dweights_of(const Sequence& s, const Layer& layer, const std::vector<DirectionGrads>& grads,
                                    bool need_dweights);

// Adds (`first`: sets) the gradients of weights and biases that follow from the gate gradients of some rows, in the
// same order at every call. h_prev (rows, H) are the states before. `reset` is undefined but for the reset gate before
// the product. dgates:
//   plain         (rows, 4H): n, r, z, q
//   reset before  (rows, 3H): n, r, z; and `reset` (rows, H) is r * h
//   layer norm    (rows, 6H): n, r, z of W x, then r, z, n of R h
void add_weight_grads(const Sequence& s, const at::Tensor& dgates, const at::Tensor& x, const at::Tensor& h_prev,
                      const at::Tensor& reset, bool first, DirectionGrads& grads);
void add_bias_grads(const at::Tensor& dgates, bool first, DirectionGrads& grads);

// Adds (`first`: sets) the rows of dx (rows, I) that follow from dgates. weight_nrz (3H, I) is weight_ih in its order.
void add_input_grads(const Sequence& s, const at::Tensor& dgates, const at::Tensor& weight_nrz, bool first,
                     at::Tensor dx);

}  // namespace gru_ext
