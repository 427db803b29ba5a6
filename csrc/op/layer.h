// The operators of gru_ext, one layer each: `gru_fwd` and `gru_bwd` (a kernel per backend), and `gru`, which calls
// `gru_fwd` and, where a gradient is asked for, records `gru_bwd`. Their schemas are in schemas.h.
//
// Letters: T steps, B batch, I input, H hidden, D directions (1 or 2), N = rows of all steps (T * B, or the sum of
// batch_sizes). Gate order in weights and biases is r, z, n, as in torch.nn.GRU.
//
//   y            (T, B, D*H), or (N, D*H): the state after every step; the reverse direction in the second H columns
//   h_n          (D, B, H) state after each sequence's last step
//   gates        (D, N, 4, H): r, z, n and q = R_n h + b_hn of every step; reset gate before the recurrent product:
//                (D, N, 3, H), there is no q; with layer_norm: (D, N, 9 H + 16), the H values each of r, z, n, of W x
//                normalised and of R h normalised, gates r, z, n, then 1 / sqrt(variance + eps) of each of the
//                normalisations of W x and of R h, two places each, and what fills a cache line; (0) where they were
//                not saved: `gru_bwd` then computes them again
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>
#include <tuple>
#include <vector>

namespace gru_ext {

using OptionalTensor = std::optional<at::Tensor>;

// What varies of the recurrence (docs/variants.md). As constructed: nothing.
struct Variant {
  std::optional<at::Tensor> zoneout_mask;    // (D, N, H) bool: the units that keep their state in a step
  std::optional<at::Tensor> recurrent_mask;  // (D, B, H) bool: the units whose state enters the recurrent product
  std::optional<at::Tensor> candidate_mask;  // (D, N, H) bool: the units whose candidate n enters the state
  double zoneout = 0;                        // without zoneout_mask: the part of its state that every unit keeps
  double recurrent_dropout = 0;              // what recurrent_mask lets through is divided by 1 - recurrent_dropout
  double candidate_dropout = 0;              // likewise
  bool reset_after = true;                   // whether the reset gate comes after the recurrent product, or before it
  int64_t layer_norm = 0;                    // normalisations of each of W x and R h: 0, none; 1, of r, z, n together;
                                             // 2, of r and z together, and of n

  bool is_plain() const { return !has_masks() && reset_after && layer_norm == 0; }
  std::array<OptionalTensor*, 3> masks() { return {&zoneout_mask, &recurrent_mask, &candidate_mask}; }
  bool has_masks() const { return zoneout_mask || recurrent_mask || candidate_mask || zoneout != 0; }
  int64_t saved_gates() const { return reset_after ? 4 : 3; }  // values that a step leaves for its derivative
  std::vector<int64_t> gates_shape(int64_t D, int64_t N, int64_t H) const {
    if (layer_norm > 0) return {D, N, 9 * H + 16};
    return {D, N, saved_gates(), H};
  }
};

// A layer and its input, as long as the call lasts.
struct Layer {
  const at::Tensor& x;                           // (T, B, I), any strides; or (N, I) with batch_sizes
  const std::optional<at::Tensor>& hx;           // (D, B, H) initial state; none for zero
  at::TensorList weights;                        // for each direction: weight_ih (3H, I), weight_hh (3H, H) and, with
                                                 // biases, bias_ih (3H), bias_hh (3H); with layer_norm, last,
                                                 // gain_ih (3H), gain_hh (3H)
  const std::optional<at::Tensor>& batch_sizes;  // (T) int64 on the CPU, not increasing: rows of each step of a packed
                                                 // batch; none where x is (T, B, I)
  bool bidirectional;
  Variant variant;
};

// A layer of parts of the tensors of another one.
struct LayerOfParts {
  at::Tensor x;
  OptionalTensor hx;
  std::vector<at::Tensor> weights;
  const OptionalTensor& batch_sizes;
  bool bidirectional;
  Variant variant;

  Layer layer() const { return {x, hx, weights, batch_sizes, bidirectional, variant}; }
};

// part(tensor), if there is one.
template <typename Part>
OptionalTensor part_of(const OptionalTensor& tensor, const Part& part) {
  return tensor.has_value() ? OptionalTensor(part(*tensor)) : std::nullopt;
}

// `of_states`: of hx and of masks.
template <typename OfStates, typename OfWeight>
LayerOfParts parts_of(const Layer& all, const at::Tensor& x, const OfStates& of_states, const OfWeight& of_weight) {
  LayerOfParts parts{x, part_of(all.hx, of_states), {}, all.batch_sizes, all.bidirectional, all.variant};
  for (const at::Tensor& weight : all.weights) parts.weights.push_back(of_weight(weight));
  for (OptionalTensor* mask : parts.variant.masks()) *mask = part_of(*mask, of_states);
  return parts;
}

// Which gradients are asked for.
struct Need {
  bool dx, dhx, dweights;
};

// The backward of a layer, as long as the call lasts.
struct Backward {
  const OptionalTensor &dy, &dh_n;  // the gradients of y and h_n; none for zero
  const Layer& layer;
  const at::Tensor &y, &gates;  // as gru_fwd returned them
  Need need;
};

using FwdResult = std::tuple<at::Tensor, at::Tensor, at::Tensor>;               // y, h_n, gates
using BwdResult = std::tuple<at::Tensor, at::Tensor, std::vector<at::Tensor>>;  // dx, dhx, dweights

// Differentiable. Returns y, h_n; without `save_y`, a y of shape (0) where no gradient needs it. `save_gates`: whether
// the gates are kept for the backward, where one may come.
std::tuple<at::Tensor, at::Tensor> gru(const Layer& layer, bool save_y, bool save_gates);

inline at::Tensor contiguous_or_undefined(const std::optional<at::Tensor>& given) {
  return given.has_value() ? given->contiguous() : at::Tensor();
}

// Whether the gates that a forward returned are not of shape (0).
inline bool were_saved(const at::Tensor& gates) { return gates.dim() != 1 || gates.size(0) != 0; }

// y, or the gates, are of shape (0) where they are not to be saved.
FwdResult gru_fwd(const Layer& layer, bool save_gates, bool save_y);

// Each result is of the shape of what it is a gradient of; what is not needed comes back as a tensor of shape (0), for
// the weights as an empty list.
BwdResult gru_bwd(const Backward& call);
// The same in plain PyTorch, which has every derivative of it: the operator of src/gru_ext/transforms.py.
BwdResult gru_bwd_by_reference(const Backward& call);

}  // namespace gru_ext
