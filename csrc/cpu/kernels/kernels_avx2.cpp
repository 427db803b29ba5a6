// The kernels for AVX2 with FMA and F16C.
#if defined(__x86_64__)
#include "cpu/kernels/before_target.h"

#pragma GCC target("avx2,fma,f16c")
#define GRU_VECTOR_BYTES 32
#define GRU_VECTOR_REGISTERS 16
#include "cpu/kernels/kernels_body.h"

GRU_KERNELS(avx2)
#endif
