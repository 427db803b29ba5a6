// The entry of a kernel whose blocks hold all of R, by its traits.
#pragma once

#include "cuda/persistent/entry.h"
#include "cuda/persistent/types.cuh"

namespace gru_ext {

template <typename Traits>
HeldEntry held_entry(int packet_bytes, int (*resident)()) {
  return {{device::kOnFmaUnits<typename Traits::Operand>, Traits::kRows, resident},
          Traits::kHidden,
          Traits::kC,
          Traits::kPairs,
          Traits::kOverflowBytes,
          packet_bytes};
}

}  // namespace gru_ext
