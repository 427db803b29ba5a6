#include "cuda/one_step/one_step.cuh"

namespace gru_ext {
template const char* launch_gru_one_step_fwd(const GruOneStepFwdParams<float>&, Stream);
}  // namespace gru_ext
