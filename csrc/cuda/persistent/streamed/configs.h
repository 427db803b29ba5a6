// The instantiations of the streamed kernels: X(units of a block, rows, slices, parts, register slabs, weight stages,
// operand stages), see StreamedTraits. Each serves every H of which the device runs the blocks at the same time.
//
// With 16 units, R of H = 2048 in 16 bits stays on the multiprocessors of an H200, and an exchange is among many
// blocks; with 32, H may be 4224, of which some is streamed. As many slabs as possible are in registers without
// spilling. Only those are compiled that the time model misses by more than 10% somewhere
// (benchmarks/needed_kernels.py), or that serve layers with masks.
#pragma once

// clang-format off

#define GRU_STREAMED_FWD_16BIT(X) \
  X(16, 16, 4, 3, 8, 4, 4) X(16, 32, 4, 3, 5, 4, 4) X(16, 64, 4, 3, 0, 4, 2) \
  X(32,  8, 4, 2, 6, 3, 3) X(32, 16, 4, 2, 5, 3, 3) X(32, 32, 4, 2, 3, 3, 3) X(32, 64, 4, 2, 0, 4, 4)

#define GRU_STREAMED_BWD_16BIT(X) \
  X(16, 16, 8, 1, 16, 6, 4) X(16, 32, 8, 1, 14, 6, 4)                          \
  X(32,  8, 8, 1,  9, 4, 4) X(32, 16, 8, 1,  8, 4, 4) X(32, 32, 8, 1, 5, 4, 3)

#define GRU_STREAMED_FWD_TF32(X) \
  X(16,  8, 4, 3, 7, 4, 4) X(16, 16, 4, 3, 8, 4, 4) X(16, 32, 4, 3, 5, 4, 4) \
  X(32,  8, 4, 2, 6, 3, 3) X(32, 16, 4, 2, 5, 3, 3) X(32, 32, 4, 2, 3, 3, 3)

#define GRU_STREAMED_BWD_TF32(X) \
  X(16,  8, 8, 1, 17, 6, 4) X(16, 16, 8, 1, 16, 6, 4)                           \
  X(32,  8, 8, 1,  8, 4, 4) X(32, 16, 8, 1,  7, 4, 4) X(32, 32, 8, 1,  4, 4, 3)

// Those for layers with masks, which take registers.

#define GRU_STREAMED_MASKED_FWD_16BIT(X) \
  X(16, 16, 4, 3, 7, 4, 4) X(16, 32, 4, 3, 5, 4, 4)                         \
  X(32,  8, 4, 2, 5, 3, 3) X(32, 16, 4, 2, 5, 3, 3) X(32, 32, 4, 2, 3, 3, 3)

#define GRU_STREAMED_MASKED_BWD_16BIT(X) \
  X(16, 16, 8, 1, 16, 6, 4) X(16, 32, 8, 1, 14, 6, 4)                         \
  X(32,  8, 8, 1,  9, 4, 4) X(32, 16, 8, 1,  8, 4, 4) X(32, 32, 8, 1, 4, 4, 3)

#define GRU_STREAMED_MASKED_FWD_TF32(X) \
  X(16,  8, 4, 3, 4, 4, 4) X(16, 16, 4, 3, 6, 4, 4) X(16, 32, 4, 3, 4, 4, 4) \
  X(32,  8, 4, 2, 5, 3, 3) X(32, 16, 4, 2, 5, 3, 3) X(32, 32, 4, 2, 2, 3, 3)

#define GRU_STREAMED_MASKED_BWD_TF32(X) \
  X(16,  8, 8, 1, 16, 6, 4) X(16, 16, 8, 1, 16, 6, 4) X(16, 32, 8, 1, 12, 6, 4) \
  X(32,  8, 8, 1,  8, 4, 4) X(32, 16, 8, 1,  7, 4, 4) X(32, 32, 8, 1,  3, 4, 3)
