#include "../gru_streamed_launch.cuh"

namespace gru_ext {

#define GRU_FWD_ENTRY(...) gru_streamed_fwd_entry<device::GruStreamedFwdTraits<float, __VA_ARGS__>, false>(),
#define GRU_BWD_ENTRY(...) gru_streamed_bwd_entry<device::GruStreamedBwdTraits<float, __VA_ARGS__>, false>(),
#define GRU_MASKED_FWD_ENTRY(...) gru_streamed_fwd_entry<device::GruStreamedFwdTraits<float, __VA_ARGS__>, true>(),
#define GRU_MASKED_BWD_ENTRY(...) gru_streamed_bwd_entry<device::GruStreamedBwdTraits<float, __VA_ARGS__>, true>(),

template <>
const std::vector<GruClusterKernel<GruClusterFwdParams<float>>>& gru_streamed_fwd_kernels<float>() {
  static const std::vector<GruClusterKernel<GruClusterFwdParams<float>>> kernels = {
      GRU_STREAMED_FWD_TF32(GRU_FWD_ENTRY) GRU_STREAMED_MASKED_FWD_TF32(GRU_MASKED_FWD_ENTRY)};
  return kernels;
}

template <>
const std::vector<GruClusterKernel<GruClusterBwdParams<float>>>& gru_streamed_bwd_kernels<float>() {
  static const std::vector<GruClusterKernel<GruClusterBwdParams<float>>> kernels = {
      GRU_STREAMED_BWD_TF32(GRU_BWD_ENTRY) GRU_STREAMED_MASKED_BWD_TF32(GRU_MASKED_BWD_ENTRY)};
  return kernels;
}

}  // namespace gru_ext
