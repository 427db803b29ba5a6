// The kernels of kernels_avx512_amx.cpp, to the same bits, on a machine without AMX: tiles in C++.
#if defined(__x86_64__)
#include "cpu/kernels/before_target.h"

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")
#define GRU_VECTOR_BYTES 64
#define GRU_VECTOR_REGISTERS 32
#define GRU_MULTIPLIES_BF16
#define GRU_TILES PortableTiles
#include "cpu/kernels/kernels_body.h"

GRU_KERNELS_ON_TILES(avx512_amx_portable)
#endif
