// The step kernels for any CPU: 16-byte GNU vectors.
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#define GRU_VECTOR_BYTES 16
#define GRU_STEP_KERNELS step_kernels_portable
#include "steps_body.h"
