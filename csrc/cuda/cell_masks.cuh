// What regularises the cell of one unit of one row, see cell/masks.h.
#pragma once

#include "cell/cell.h"
#include "cell/masks.h"
#include "cuda/primitives.cuh"

namespace gru_ext {

// What the masks of the cell say at one place, 0 or 1, as it came from memory; 0 where there is none.
struct LoadedMasks {
  int zoneout, candidate;
};

// A kernel loads masks with all else that it needs, before it waits for any of that. Anew, or the compiler would have
// the value compared on the path that loads it, right behind the load.
GRU_DEVICE int load_mask(const bool* mask, int64_t place) {
  return device::anew(mask == nullptr ? 0 : device::load_global(reinterpret_cast<const uint8_t*>(mask) + place));
}

// At element `place` of (rows, H), if it `exists`.
template <typename acc_t>
GRU_DEVICE LoadedMasks load_masks(const DirectionMasks<acc_t>& masks, bool exists, int64_t place) {
  return {load_mask(exists ? masks.zoneout : nullptr, place), load_mask(exists ? masks.candidate : nullptr, place)};
}

// The masks of the cell.
template <typename acc_t>
GRU_DEVICE CellMasks<acc_t> cell_masks(const DirectionMasks<acc_t>& masks, const LoadedMasks& loaded) {
  const acc_t kept = static_cast<acc_t>(loaded.zoneout);
  const acc_t factor = static_cast<acc_t>(loaded.candidate) * masks.candidate_scale;
  return {masks.zoneout == nullptr ? masks.kept : kept, masks.candidate == nullptr ? acc_t(1) : factor,
          masks.zoneout != nullptr || masks.kept != acc_t(0)};
}

// The factor of h in the recurrent product. `passes`: whether the mask, if there is one, lets it through.
template <typename acc_t>
GRU_DEVICE acc_t recurrent_factor(const DirectionMasks<acc_t>& masks, bool passes) {
  if (masks.recurrent == nullptr) return 1;
  return passes ? masks.recurrent_scale : acc_t(0);
}

}  // namespace gru_ext
