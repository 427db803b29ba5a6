#include "cuda/one_step/one_step.cuh"

namespace gru_ext {
template const char* launch_gru_one_step_fwd(const GruOneStepFwdParams<device::float16>&, Stream);
}  // namespace gru_ext
