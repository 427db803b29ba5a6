// The kernels for any CPU: 16-byte GNU vectors.
#include "cpu/kernels/before_target.h"

#define GRU_VECTOR_BYTES 16
#define GRU_VECTOR_REGISTERS 16
#include "cpu/kernels/kernels_body.h"

GRU_KERNELS(portable)
