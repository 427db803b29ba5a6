// What regularises the cell of one unit of one row, see cell/masks.h.
#pragma once

#include "cell/cell.h"
#include "cell/masks.h"
#include "cuda/primitives.cuh"

namespace gru_ext {

// The masks of the cell at element `place` of a step's (rows, H).
template <typename acc_t>
GRU_DEVICE CellMasks<acc_t> cell_masks(const DirectionMasks<acc_t>& masks, int64_t place) {
  const auto kept = [&] { return device::load_global(masks.zoneout + place) ? acc_t(1) : acc_t(0); };
  const auto factor = [&] { return device::load_global(masks.candidate + place) ? masks.candidate_scale : acc_t(0); };
  return {masks.zoneout == nullptr ? masks.kept : kept(), masks.candidate == nullptr ? acc_t(1) : factor(),
          masks.zoneout != nullptr || masks.kept != acc_t(0)};
}

// The factor of h in the recurrent product, at element `place` of (B, H).
template <typename acc_t>
GRU_DEVICE acc_t recurrent_factor(const DirectionMasks<acc_t>& masks, int64_t place) {
  if (masks.recurrent == nullptr) return 1;
  return device::load_global(masks.recurrent + place) ? masks.recurrent_scale : acc_t(0);
}

}  // namespace gru_ext
