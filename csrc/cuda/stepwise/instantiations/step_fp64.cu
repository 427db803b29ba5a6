#include "cuda/stepwise/load.cuh"

namespace gru_ext {
template const char* launch_gru_step_fwd(const GruStepFwdParams<double, double>&, Stream);
template const char* launch_gru_step_bwd(const GruStepBwdParams<double, double>&, Stream);
template const char* launch_gru_step_reset_fwd(const GruStepFwdParams<double, double>&, Stream);
template const char* launch_gru_step_candidate_fwd(const GruStepFwdParams<double, double>&, Stream);
template const char* launch_gru_step_candidate_bwd(const GruStepBwdParams<double, double>&, Stream);
template const char* launch_gru_step_reset_bwd(const GruStepBwdParams<double, double>&, Stream);
template const char* launch_gru_step_norm_fwd(const GruStepNormFwdParams<double, double>&, Stream);
template const char* launch_gru_step_norm_bwd(const GruStepNormBwdParams<double>&, Stream);
template bool load_gru_step_kernels<double>();
}  // namespace gru_ext
