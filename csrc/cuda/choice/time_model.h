// The time model of docs/kernels.md: how long a step of each kernel should take, and a call. Every constant is assumed
// until it is measured. No headers of CUDA or torch.
#pragma once

#include <cmath>

#include "cuda/persistent/streamed/entries.h"

namespace gru_ext {

enum class Pass { forward, backward };

// ---- Persistent kernels: cycles of a multiprocessor's clock, unless a constant is of a second

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

constexpr double kClusterSeconds = 10e-6;  // of a call: the launch, and weights on their way to registers

// Of a step of a kernel whose blocks hold all of R.
inline double step_cycles(const HeldEntry& kernel, Pass pass, bool is_float) {
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

// Seconds of a step of a streamed kernel, while the copies of so many directions are read.
inline double streamed_step_seconds(int units, int rows, const StreamedShape& shape, double H, Pass pass, bool is_float,
                                    int directions, double clock_rate) {
  const double multiply_adds = is_float ? kMultiplyAdds / 2 : kMultiplyAdds;
  const double products = 3 * units * H * rows / multiply_adds;
  const double copied = (shape.operand_bytes / 2 + static_cast<double>(shape.weight_bytes) / shape.blocks) / kCopyBytes;
  const double fixed = (pass == Pass::forward ? kForwardStep : kBackwardStep) + kFlagLatency;
  const double read = std::fmax(0, directions * static_cast<double>(shape.weight_bytes) - kCachedBytes) / kMemoryBytes;
  return fixed / clock_rate + std::fmax(std::fmax(products, copied) / clock_rate, read);
}

// ---- Stepwise kernels

constexpr double kStepwiseStepSeconds = 10e-6;  // two launches
// Multiply-adds a second of torch's products.
constexpr double kProductRate16Bit = 250e12, kProductRateFloat = 25e12;
constexpr double kWeightBytes = 4e12;  // read a second, from memory or the L2 cache

// ---- The one-step kernel

constexpr double kOneStepSeconds = 4e-6;        // the launch, and the latencies that nothing hides
constexpr double kOneStepMultiplyAdds = 15e12;  // a second on the FMA units, conversions included; float64: half

}  // namespace gru_ext
