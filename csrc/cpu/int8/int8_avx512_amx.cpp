// The int8 kernel for the tiles of Intel AMX, beside AVX-512.
#if defined(__x86_64__)
#include "cpu/kernels/before_target.h"

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prfchw")
#define GRU_VECTOR_BYTES 64
#define GRU_TILES AmxTiles
#include "cpu/int8/int8_tiles_body.h"

namespace gru_ext {
Int8Kernel int8_kernel_avx512_amx() { return int8_chunk<TileDot>; }
}  // namespace gru_ext
#endif
