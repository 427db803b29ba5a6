// The kernels that multiply bfloat16 as it is: AVX-512 with BF16.
#if defined(__x86_64__)
#include "cpu/kernels/before_target.h"

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")
#define GRU_VECTOR_BYTES 64
#define GRU_VECTOR_REGISTERS 32
#define GRU_MULTIPLIES_BF16
#include "cpu/kernels/kernels_body.h"

namespace gru_ext {
GRU_KERNELS_OF(avx512_bf16, c10::BFloat16, c10::BFloat16)
}
#endif
