#include "cuda/stepwise/launch.cuh"

namespace gru_ext {
GRU_STEP_LAUNCHERS(double, double)
}  // namespace gru_ext
