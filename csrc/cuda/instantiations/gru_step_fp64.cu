#include "../gru_step.cuh"

namespace gru_ext {
template cudaError_t launch_gru_step_fwd(const GruStepFwdParams<double, double>&, cudaStream_t);
template cudaError_t launch_gru_step_bwd(const GruStepBwdParams<double, double>&, cudaStream_t);
}  // namespace gru_ext
