// The instantiations of the cluster-persistent kernels: X(hidden, C, rows, warps, register tiles), see
// GruClusterFwdTraits and GruClusterBwdTraits. Each serves every H up to `hidden`.
//
// As many tiles of R as possible are in registers without spilling; docs/kernels.md has their registers and shared
// memory. Only those are compiled that the time model misses by more than 10% somewhere (benchmarks/needed_kernels.py),
// and the forward of each such backward. Two stay for the tests of compiled kernels: X(128, 2, 32, ...) is the smallest
// of several blocks with tiles of 32 rows.
#pragma once

// clang-format off

#define GRU_CLUSTER_FWD_16BIT(X) \
  X( 64,  1,  8,  8,  2) X( 64,  1, 16,  8,  2)                        \
  X(128,  1,  8,  8,  8) X(128,  1, 16,  8,  8) X(128,  2, 32,  8,  4) \
  X(192,  2,  8, 12,  6)                                               \
  X(256,  4,  8,  8,  8) X(256,  4, 16,  8,  8)                        \
  X(384,  8,  8,  6, 12) X(384,  8, 16,  6, 10)                        \
  X(512,  8,  8,  8, 14)                                               \
  X(768, 12,  8,  8, 14) X(768, 16,  8, 12,  8) X(768, 16, 16, 12,  6)

#define GRU_CLUSTER_BWD_16BIT(X) \
  X( 64,  1,  8,  8,  6) X( 64,  1, 16,  8,  6)                        \
  X(128,  1,  8,  8, 24) X(128,  2, 32,  8, 12)                        \
  X(192,  2,  8, 12, 18)                                               \
  X(256,  4,  8,  8, 12) X(256,  4, 16,  8, 12)                        \
  X(384,  8,  8,  8,  9) X(384,  8, 16,  8,  8)                        \
  X(512,  8,  8,  8,  9)                                               \
  X(768, 12,  8,  8,  6)

#define GRU_CLUSTER_FWD_TF32(X) \
  X( 64,  1,  8,  4,  8) X( 64,  1, 16,  4,  8)                        \
  X(128,  2,  8,  8,  8)                                               \
  X(256,  8,  8,  8,  8) X(256,  8, 16,  8,  8) X(256,  8, 32,  8,  8) \
  X(384, 12,  8,  8, 12) X(384, 12, 16,  8, 12)                        \
  X(512, 16,  8,  8, 14)

#define GRU_CLUSTER_BWD_TF32(X) \
  X( 64,  1,  8,  8, 12) X( 64,  1, 16,  8, 12)                        \
  X(128,  2,  8,  8, 24)                                               \
  X(256,  8,  8,  8, 12) X(256,  8, 16,  8, 12) X(256,  8, 32,  8, 12) \
  X(384, 12,  8,  8, 12) X(384, 12, 16,  8, 10)                        \
  X(512, 16,  8,  8,  9)

// In IEEE float32, on the FMA units, where more rows to a tile would gain nothing.
#define GRU_CLUSTER_FWD_IEEE(X) \
  X( 64,  1,  8,  4,  8)                        \
  X(128,  2,  8,  8,  8)                        \
  X(256,  8,  8,  8,  8) X(256,  8, 16,  8,  8) \
  X(384, 12,  8,  8,  8)                        \
  X(512, 16,  8,  8,  6)

#define GRU_CLUSTER_BWD_IEEE(X) \
  X( 64,  1,  8,  8, 12)                        \
  X(128,  2,  8,  8, 24)                        \
  X(256,  8,  8,  8, 12) X(256,  8, 16,  8, 12) \
  X(384, 12,  8,  8,  5)                        \
  X(512, 16,  8,  8,  4)
