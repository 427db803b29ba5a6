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

// While one lives, the products of this thread follow torch's switch for cuDNN's RNNs, as nn.GRU does: where that
// forbids TF32 there is none. Where it allows TF32, torch's switch for matrix products decides, which only the whole
// process could change: other threads' products would change with it, and the bits of ours with their timing.
class RnnPrecisionGuard {
 public:
  RnnPrecisionGuard();

 private:
  std::optional<at::NoTF32Guard> no_tf32_;
};

// A weight as `product_out` multiplies it fastest.
at::Tensor product_operand(const at::Tensor& weight);

// out = a b, for operands of one dtype. `out` has their dtype; or they are half precisions and it is float, as are then
// all sums.
void product_out(at::Tensor out, const at::Tensor& a, const at::Tensor& b);

// Gradients of one direction's parameters, in the dtype of the sums; undefined where not needed.
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

// What follows from the gate gradients of some rows, dgates (rows, 4H), order n, r, z, q: adds their part of the
// weights' gradients in `grads` (`first`: sets it), in the same order at every call; and that of the biases'. h_prev
// (rows, H) are the states before. Reset gate before: dgates is (rows, 3H), and `reset` (rows, H) what the candidate's
// weights were multiplied with; else that is undefined. With layer normalisation it is (rows, 6H): n, r, z of W x, then
// r, z, n of R h.
void add_weight_grads(const Sequence& s, const at::Tensor& dgates, const at::Tensor& x, const at::Tensor& h_prev,
                      const at::Tensor& reset, bool first, DirectionGrads& grads);
void add_bias_grads(const at::Tensor& dgates, bool first, DirectionGrads& grads);

// Adds (`first`: sets) the rows of dx (rows, I) that follow from the same. weight_nrz (3H, I) is weight_ih in the order
// of dgates.
void add_input_grads(const Sequence& s, const at::Tensor& dgates, const at::Tensor& weight_nrz, bool first,
                     at::Tensor dx);

}  // namespace gru_ext
