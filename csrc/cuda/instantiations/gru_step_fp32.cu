#include "../gru_step.cuh"

namespace gru_ext {
template const char* launch_gru_step_fwd(const GruStepFwdParams<float, float>&, Stream);
template const char* launch_gru_step_bwd(const GruStepBwdParams<float, float>&, Stream);
}  // namespace gru_ext
