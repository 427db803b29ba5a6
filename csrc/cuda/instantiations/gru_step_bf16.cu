#include "../gru_step.cuh"

namespace gru_ext {
template const char* launch_gru_step_fwd(const GruStepFwdParams<device::bfloat16, float>&, Stream);
template const char* launch_gru_step_bwd(const GruStepBwdParams<device::bfloat16, float>&, Stream);
}  // namespace gru_ext
