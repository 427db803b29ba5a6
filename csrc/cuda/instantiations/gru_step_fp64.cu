#include "../gru_step.cuh"

namespace gru_ext {
template const char* launch_gru_step_fwd(const GruStepFwdParams<double, double>&, Stream);
template const char* launch_gru_step_bwd(const GruStepBwdParams<double, double>&, Stream);
}  // namespace gru_ext
