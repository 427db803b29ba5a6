// The kernel of int8_avx512_amx.cpp on a machine without AMX: tiles in C++.
#if defined(__x86_64__)
// Every header of others comes before the target pragma, so that no inline function of theirs is compiled for it.
#include <immintrin.h>

#include <c10/util/BFloat16.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>

#include "cpu/int8/int8_kernels.h"
#include "cpu/kernels/kernels.h"
#include "cpu/step_barrier.h"

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prfchw")
#define GRU_VECTOR_BYTES 64
#define GRU_TILES PortableTiles
#include "cpu/int8/int8_tiles_body.h"

namespace gru_ext {
Int8Kernel int8_kernel_avx512_amx_portable() { return int8_chunk<TileDot>; }
}  // namespace gru_ext
#endif
