#include "cuda/stepwise/launch.cuh"

namespace gru_ext {
GRU_STEP_LAUNCHERS(float, float)
}  // namespace gru_ext
