#include "cuda/stepwise/launch.cuh"

namespace gru_ext {
GRU_STEP_LAUNCHERS(device::bfloat16, float)
}  // namespace gru_ext
