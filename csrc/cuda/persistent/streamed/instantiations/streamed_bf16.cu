#include "cuda/persistent/streamed/launch.cuh"

namespace gru_ext {

#define GRU_NAME device::bfloat16
GRU_STREAMED_ENTRIES(16BIT)

}  // namespace gru_ext
