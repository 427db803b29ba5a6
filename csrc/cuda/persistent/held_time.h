// The time model of a kernel whose blocks hold all of R. No headers of CUDA or torch.
#pragma once

#include <cmath>

#include "cuda/choice/time_model.h"
#include "cuda/persistent/entry.h"

namespace gru_ext {

// Of a step. The exchange in a cluster goes on while blocks multiply.
inline double step_cycles(const HeldEntry& kernel, Pass pass, bool is_float) {
  const bool forward = pass == Pass::forward;
  const double H = kernel.hidden, rows = kernel.rows, C = kernel.blocks;
  const double on_tensor_core = (forward ? kForwardMultiplyAdds : kBackwardMultiplyAdds) / (is_float ? 2 : 1);
  const double products = 3 * H * H * rows / (C * (kernel.ieee ? kFmaMultiplyAdds : on_tensor_core));
  const double overflow = kernel.overflow_bytes * std::ceil(rows / (kernel.ieee ? 8 : 16)) / kSharedBytes;
  const bool is_group = kernel.packet_bytes > 0;
  const double bytes_a_unit = forward && !is_float ? 2 : 4;
  const double exchange = C > 1 && !is_group ? kExchangeLatency + bytes_a_unit * H * rows / kExchangeBytes : 0;
  const double packets = is_group ? kPacketLatency + kernel.packet_bytes / 2 / kPacketBytes : 0;
  const double fixed =
      forward ? kForwardStep + kForwardPair * kernel.pairs : kBackwardStep + kBackwardPair * kernel.pairs;
  return fixed + packets + std::fmax(products, std::fmax(overflow, exchange));
}

}  // namespace gru_ext
