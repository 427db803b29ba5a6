// The kernels for AVX-512 (F, BW, DQ, VL).
#if defined(__x86_64__)
#include "cpu/kernels/before_target.h"

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#define GRU_VECTOR_BYTES 64
#define GRU_VECTOR_REGISTERS 32
#include "cpu/kernels/kernels_body.h"

GRU_KERNELS(avx512)
#endif
