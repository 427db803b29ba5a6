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
  at::Tensor weight_ih;         // (3H, I)
  at::Tensor weight_hh;         // (3H, H)
  at::Tensor bias_ih, bias_hh;  // (3H), contiguous; undefined without biases
  at::Tensor gain_ih, gain_hh;  // (3H), contiguous; undefined without layer normalisation
  Variant variant;              // its masks are (N, H), (B, H) and (N, H), contiguous
};

// The masks of all steps.
template <typename acc_t>
DirectionMasks<acc_t> masks_of(const StepDirection& direction) {
  const Variant& v = direction.variant;
  const auto data = [](const OptionalTensor& mask) { return mask ? mask->const_data_ptr<bool>() : nullptr; };
  return {v.has_masks(),
          data(v.zoneout_mask),
          data(v.candidate_mask),
          data(v.recurrent_mask),
          static_cast<acc_t>(v.zoneout),
          static_cast<acc_t>(1 / (1 - v.candidate_dropout)),
          static_cast<acc_t>(1 / (1 - v.recurrent_dropout))};
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
