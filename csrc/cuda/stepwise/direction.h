// One direction of a layer, as the stepwise kernels' host side has it.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "cell/masks.h"
#include "op/check.h"
#include "op/layer.h"

namespace gru_ext {

// One direction of a layer, in the operator's dtype; letters and shapes as in op/layer.h.
struct StepDirection {
  bool reverse;
  bool reset_after;             // whether the reset gate comes after the recurrent product
  at::Tensor weight_ih;         // (3H, I)
  at::Tensor weight_hh;         // (3H, H)
  at::Tensor bias_ih, bias_hh;  // (3H), contiguous; undefined without biases
  // (N, H), (N, H) and (B, H), contiguous, undefined where there is none; and the rates, see Variant in op/layer.h.
  at::Tensor zoneout_mask, candidate_mask, recurrent_mask;
  double zoneout, candidate_dropout, recurrent_dropout;
  int layer_norm;               // normalisations of each product
  at::Tensor gain_ih, gain_hh;  // (3H), contiguous; undefined without them
};

// The masks of all steps.
template <typename acc_t>
DirectionMasks<acc_t> masks_of(const StepDirection& direction) {
  const auto data = [](const at::Tensor& mask) { return mask.defined() ? mask.const_data_ptr<bool>() : nullptr; };
  DirectionMasks<acc_t> masks;
  masks.zoneout = data(direction.zoneout_mask);
  masks.candidate = data(direction.candidate_mask);
  masks.recurrent = data(direction.recurrent_mask);
  masks.kept = static_cast<acc_t>(direction.zoneout);
  masks.candidate_scale = static_cast<acc_t>(1 / (1 - direction.candidate_dropout));
  masks.recurrent_scale = static_cast<acc_t>(1 / (1 - direction.recurrent_dropout));
  masks.any = masks.zoneout != nullptr || masks.candidate != nullptr || masks.recurrent != nullptr || masks.kept != 0;
  return masks;
}

// Those of the steps from the one whose first row is `row`.
template <typename acc_t>
DirectionMasks<acc_t> masks_of_step(DirectionMasks<acc_t> masks, int64_t row, int64_t H) {
  if (masks.zoneout != nullptr) masks.zoneout += row * H;
  if (masks.candidate != nullptr) masks.candidate += row * H;
  return masks;
}

StepDirection direction_of(const Sequence& s, const Layer& layer, int64_t d);
std::vector<StepDirection> directions_of(const Sequence& s, const Layer& layer);

}  // namespace gru_ext
