// The kernel of int8_avx512_amx.cpp on a machine without AMX: tiles in C++.
#if defined(__x86_64__)
#include "cpu/kernels/before_target.h"

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prfchw")
#define GRU_VECTOR_BYTES 64
#define GRU_TILES PortableTiles
#include "cpu/int8/int8_tiles_body.h"

namespace gru_ext {
Int8Kernel int8_kernel_avx512_amx_portable() { return int8_chunk<TileDot>; }
}  // namespace gru_ext
#endif
