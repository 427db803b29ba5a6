// The kernels for AVX2 with FMA and F16C.
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

#pragma GCC target("avx2,fma,f16c")
#define GRU_VECTOR_BYTES 32
#define GRU_VECTOR_REGISTERS 16
#include "cpu/kernels/kernels_body.h"

GRU_KERNELS(avx2)
#endif
