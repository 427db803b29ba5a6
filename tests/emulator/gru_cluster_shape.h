// The grid of a cluster-persistent kernel.
#pragma once

#include "emulator.h"

namespace gru_ext {
namespace emulator {

template <typename Traits>
Shape shape_of(const char* kernel, int B, int D) {
  const int tiles = (B + Traits::kRows - 1) / Traits::kRows;
  return {kernel, D * tiles * Traits::kC, Traits::kC, Traits::kThreads, Traits::kSharedBytes};
}

}  // namespace emulator
}  // namespace gru_ext
