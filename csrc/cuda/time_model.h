// The time model of docs/kernels.md: how long a step of a persistent kernel should take. Cycles of a multiprocessor's
// clock; every constant is assumed until it is measured.
#pragma once

#include <cmath>

#include "launchers.h"

namespace gru_ext {

enum class Pass { forward, backward };

constexpr double kAssumedClockRate = 1.98e9;               // of an H200, in cycles a second
constexpr double kForwardStep = 300, kBackwardStep = 500;  // barriers, gates and latencies that nothing hides
constexpr double kMultiplyAdds = 1270;                     // a cycle and multiprocessor, of 16-bit values
constexpr double kFmaMultiplyAdds = 100;                   // likewise, on the FMA units
constexpr double kSharedBytes = 128;                       // read a cycle from shared memory
constexpr double kExchangeLatency = 250;
constexpr double kExchangeBytes = 12;   // a cycle that a multiprocessor receives from others of its cluster
constexpr double kPacketLatency = 900;  // from the first store of a packet to the end of the block barrier after it
constexpr double kPacketBytes = 20;     // a cycle that a multiprocessor fetches from the L2 cache, tags included

constexpr double kFlagLatency = 2600;  // from the first store of an operand to the first products with it
constexpr double kCopyBytes = 24;      // a cycle that a multiprocessor copies from the L2 cache, as all others do
constexpr double kCachedBytes = 32e6;  // of the L2 cache, for weights that are read in turn
constexpr double kMemoryBytes = 4e12;  // a second, from memory
constexpr double kLoadBytes = 1e12;    // a second, of weights on their way to where a launch keeps them

// Seconds of a step of a streamed kernel, while the copies of so many directions are read.
inline double streamed_step_seconds(const ClusterKernel& kernel, const StreamedShape& shape, double H, Pass pass,
                                    bool is_float, int directions, double clock_rate) {
  const double multiply_adds = is_float ? kMultiplyAdds / 2 : kMultiplyAdds;
  const double products = 3 * kernel.units * H * kernel.rows / multiply_adds;
  const double copied = (shape.operand_bytes / 2 + static_cast<double>(shape.weight_bytes) / shape.blocks) / kCopyBytes;
  const double fixed = (pass == Pass::forward ? kForwardStep : kBackwardStep) + kFlagLatency;
  const double read = std::fmax(0, directions * static_cast<double>(shape.weight_bytes) - kCachedBytes) / kMemoryBytes;
  return fixed / clock_rate + std::fmax(std::fmax(products, copied) / clock_rate, read);
}

inline double step_cycles(const ClusterKernel& kernel, Pass pass, bool is_float) {
  const bool forward = pass == Pass::forward;
  const double H = kernel.hidden, rows = kernel.rows, C = kernel.blocks;
  const double multiply_adds = kernel.ieee ? kFmaMultiplyAdds : is_float ? kMultiplyAdds / 2 : kMultiplyAdds;
  const double products = 3 * H * H * rows / (C * multiply_adds);
  const double overflow = kernel.overflow_bytes * std::ceil(rows / (kernel.ieee ? 8 : 16)) / kSharedBytes;
  const double bytes_a_unit = forward && !is_float ? 2 : 4;
  const double exchange = kernel.packet_bytes > 0 ? kPacketLatency + kernel.packet_bytes / 2 / kPacketBytes
                          : C > 1                 ? kExchangeLatency + bytes_a_unit * H * rows / kExchangeBytes
                                                  : 0;
  return (forward ? kForwardStep : kBackwardStep) + products + overflow + exchange;
}

}  // namespace gru_ext
