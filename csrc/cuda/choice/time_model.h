// The constants of the time model of docs/kernels.md, by which each family predicts how long a call takes. None was
// measured: those of persistent kernels are fitted to predictions from machine code (`python -m
// benchmarks.predicted_constants` fits them anew), published, or assumed; the others are assumed. No headers of CUDA or
// torch.
#pragma once

namespace gru_ext {

enum class Pass { forward, backward };

// ---- Persistent kernels: cycles of a multiprocessor's clock, unless a constant is of a second

constexpr double kAssumedClockRate = 1.98e9;               // published; of an H200, in cycles a second
constexpr double kForwardStep = 441, kBackwardStep = 295;  // fitted; barriers and latencies that nothing hides
constexpr double kForwardPair = 125, kBackwardPair = 664;  // fitted; gates, loads, stores of a pair of a thread
constexpr double kForwardMultiplyAdds = 530, kBackwardMultiplyAdds = 711;  // fitted; a cycle, of 16-bit values
constexpr double kFmaMultiplyAdds = 69.3;  // fitted; likewise, on the FMA units, in float32
constexpr double kSharedBytes = 128;       // published; read a cycle from shared memory
constexpr double kExchangeLatency = 200;   // published; 180, and 20 for an mbarrier, assumed
constexpr double kExchangeBytes = 16;      // assumed; a cycle that a multiprocessor receives from others of its cluster
constexpr double kPacketLatency = 562;     // assumed; from the first store of a packet to the end of the block barrier
constexpr double kPacketBytes = 17.3;      // fitted; a cycle that a multiprocessor fetches from the L2 cache, with tags

constexpr double kFlagLatency = 2660;  // fitted; from the first store of an operand to the first products with it
constexpr double kStreamedMultiplyAdds = 1000;  // fitted by hand; a cycle and multiprocessor, of 16-bit values
constexpr double kSlabCycles = 215;  // fitted by hand; of a slab of a slice, whose steps wait for one another
constexpr double kCopyBytes = 24;  // assumed; a cycle that a multiprocessor copies from the L2 cache, as all others do
constexpr double kCachedBytes = 32e6;  // assumed; of the L2 cache, for weights that are read in turn
constexpr double kMemoryBytes = 4e12;  // assumed; a second, from memory
constexpr double kLoadBytes = 1e12;    // assumed; a second, of weights on their way to where a launch keeps them

constexpr double kClusterSeconds = 10e-6;  // assumed; of a call: the launch, and weights on their way to registers

// ---- Stepwise kernels

constexpr double kStepwiseStepSeconds = 10e-6;  // two launches
// Multiply-adds a second of torch's products.
constexpr double kProductRate16Bit = 250e12, kProductRateFloat = 25e12;
constexpr double kWeightBytes = 4e12;  // read a second, from memory or the L2 cache

// ---- The one-step kernel

constexpr double kOneStepSeconds = 4e-6;        // the launch, and the latencies that nothing hides
constexpr double kOneStepMultiplyAdds = 15e12;  // a second on the FMA units, conversions included; float64: half

}  // namespace gru_ext
