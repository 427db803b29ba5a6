// The kernels for AVX-512 (F, BW, DQ, VL).
#if defined(__x86_64__)
// Every header of others comes before the target pragma, so that no inline function of theirs is compiled for it.
#include <immintrin.h>

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "cpu/kernels/kernels.h"
#include "cpu/step_barrier.h"

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#define GRU_VECTOR_BYTES 64
#define GRU_VECTOR_REGISTERS 32
#include "cpu/kernels/kernels_body.h"

GRU_KERNELS(avx512)
#endif
