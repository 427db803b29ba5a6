// The kernels for any CPU: 16-byte GNU vectors.
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

#define GRU_VECTOR_BYTES 16
#define GRU_VECTOR_REGISTERS 16
#include "cpu/kernels/kernels_body.h"

GRU_KERNELS(portable)
