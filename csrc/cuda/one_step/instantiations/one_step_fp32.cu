#include "cuda/one_step/launch.cuh"

namespace gru_ext {
template const char* launch_gru_one_step_fwd(const GruOneStepFwdParams<float>&, Stream);
template bool load_gru_one_step_kernels<float>();
}  // namespace gru_ext
