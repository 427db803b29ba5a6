#include "cuda/stepwise/load.cuh"

namespace gru_ext {
template const char* launch_gru_step_fwd(const GruStepFwdParams<float, float>&, Stream);
template const char* launch_gru_step_bwd(const GruStepBwdParams<float, float>&, Stream);
template const char* launch_gru_step_reset_fwd(const GruStepFwdParams<float, float>&, Stream);
template const char* launch_gru_step_candidate_fwd(const GruStepFwdParams<float, float>&, Stream);
template const char* launch_gru_step_candidate_bwd(const GruStepBwdParams<float, float>&, Stream);
template const char* launch_gru_step_reset_bwd(const GruStepBwdParams<float, float>&, Stream);
template const char* launch_gru_step_norm_fwd(const GruStepNormFwdParams<float, float>&, Stream);
template const char* launch_gru_step_norm_bwd(const GruStepNormBwdParams<float>&, Stream);
template bool load_gru_step_kernels<float>();
}  // namespace gru_ext
