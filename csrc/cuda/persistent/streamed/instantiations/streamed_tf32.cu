#include "cuda/persistent/streamed/launch.cuh"

namespace gru_ext {

#define GRU_NAME float
GRU_STREAMED_ENTRIES(TF32)

}  // namespace gru_ext
