#include "../gru_step.cuh"

namespace gru_ext {
template cudaError_t launch_gru_step_fwd(const GruStepFwdParams<float, float>&, cudaStream_t);
template cudaError_t launch_gru_step_bwd(const GruStepBwdParams<float, float>&, cudaStream_t);
}  // namespace gru_ext
