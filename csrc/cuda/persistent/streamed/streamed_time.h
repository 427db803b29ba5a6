// The time model of a streamed kernel. No headers of CUDA or torch.
#pragma once

#include <cmath>

#include "cuda/choice/time_model.h"
#include "cuda/persistent/streamed/entries.h"

namespace gru_ext {

// Seconds of a step, while the copies of so many directions are read.
inline double streamed_step_seconds(int units, int rows, const StreamedShape& shape, double H, Pass pass, bool is_float,
                                    int directions, double clock_rate) {
  const double multiply_adds = is_float ? kStreamedMultiplyAdds / 2 : kStreamedMultiplyAdds;
  const double products = 3 * units * H * rows / multiply_adds;
  const double copied = (shape.operand_bytes / 2 + static_cast<double>(shape.weight_bytes) / shape.blocks) / kCopyBytes;
  const bool forward = pass == Pass::forward;
  const double longest = std::fmax(std::fmax(products, copied), kSlabCycles * shape.slabs_of_slice);
  const double fixed = (forward ? kForwardStep + kForwardPair : kBackwardStep + kBackwardPair) + kFlagLatency;
  const double read = std::fmax(0, directions * static_cast<double>(shape.weight_bytes) - kCachedBytes) / kMemoryBytes;
  return fixed / clock_rate + std::fmax(longest / clock_rate, read);
}

}  // namespace gru_ext
