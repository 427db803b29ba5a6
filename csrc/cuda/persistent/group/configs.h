// The instantiations of the group-persistent kernels: X(hidden, C, rows, warps, register tiles), see
// GruClusterFwdTraits, with the exchange by packets, and GruGroupBwdTraits: C blocks of the grid, of which each has a
// multiprocessor. Each serves every H up to `hidden`.
//
// As many tiles of R as possible are in registers without spilling. Only those are compiled that the time model misses
// by more than 10% somewhere (benchmarks/needed_kernels.py); docs/kernels.md has their registers and shared memory.
#pragma once

// clang-format off

#define GRU_GROUP_FWD_16BIT(X) \
  X( 512,   8,  8,  8, 12) \
  X( 768,  24,  8,  8, 12) \
  X(1024,  32,  8,  8, 14) \
  X(1536,  96,  8,  8, 12) \
  X(2048, 128,  8,  8, 14)

#define GRU_GROUP_BWD_16BIT(X) \
  X( 512,   8,  8,  8, 12) \
  X( 768,  24,  8,  8, 12) \
  X(1536,  96,  8,  8, 12) \
  X(2048, 128,  8,  8, 12)

// None: where R fits, a streamed kernel is as fast, within 10%.
#define GRU_GROUP_FWD_TF32(X)
#define GRU_GROUP_BWD_TF32(X)

#define GRU_GROUP_FWD_IEEE(X) \
  X( 512,  16,  8,  8,  8) X(1024,  64,  8,  8,  8)

#define GRU_GROUP_BWD_IEEE(X) \
  X( 512,  16,  8,  8, 10) X(1024,  64,  8,  8, 10)
