#include "cuda/stepwise/load.cuh"

namespace gru_ext {
template const char* launch_gru_step_fwd(const GruStepFwdParams<device::float16, float>&, Stream);
template const char* launch_gru_step_bwd(const GruStepBwdParams<device::float16, float>&, Stream);
template const char* launch_gru_step_reset_fwd(const GruStepFwdParams<device::float16, float>&, Stream);
template const char* launch_gru_step_candidate_fwd(const GruStepFwdParams<device::float16, float>&, Stream);
template const char* launch_gru_step_candidate_bwd(const GruStepBwdParams<device::float16, float>&, Stream);
template const char* launch_gru_step_reset_bwd(const GruStepBwdParams<device::float16, float>&, Stream);
template const char* launch_gru_step_norm_fwd(const GruStepNormFwdParams<device::float16, float>&, Stream);
template const char* launch_gru_step_norm_bwd(const GruStepNormBwdParams<device::float16>&, Stream);
template bool load_gru_step_kernels<device::float16>();
}  // namespace gru_ext
