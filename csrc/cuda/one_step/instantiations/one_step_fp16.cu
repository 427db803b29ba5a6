#include "cuda/one_step/launch.cuh"

namespace gru_ext {
template const char* launch_gru_one_step_fwd(const GruOneStepFwdParams<device::float16>&, Stream);
template bool load_gru_one_step_kernels<device::float16>();
}  // namespace gru_ext
