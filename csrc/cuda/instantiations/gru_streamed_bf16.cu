#include "../gru_streamed_launch.cuh"

namespace gru_ext {

#define GRU_FWD_ENTRY(...) gru_streamed_fwd_entry<device::GruStreamedFwdTraits<device::bfloat16, __VA_ARGS__>, false>(),
#define GRU_BWD_ENTRY(...) gru_streamed_bwd_entry<device::GruStreamedBwdTraits<device::bfloat16, __VA_ARGS__>, false>(),
#define GRU_MASKED_FWD_ENTRY(...) \
  gru_streamed_fwd_entry<device::GruStreamedFwdTraits<device::bfloat16, __VA_ARGS__>, true>(),
#define GRU_MASKED_BWD_ENTRY(...) \
  gru_streamed_bwd_entry<device::GruStreamedBwdTraits<device::bfloat16, __VA_ARGS__>, true>(),

template <>
const std::vector<GruClusterKernel<GruClusterFwdParams<device::bfloat16>>>&
gru_streamed_fwd_kernels<device::bfloat16>() {
  static const std::vector<GruClusterKernel<GruClusterFwdParams<device::bfloat16>>> kernels = {
      GRU_STREAMED_FWD_16BIT(GRU_FWD_ENTRY) GRU_STREAMED_MASKED_FWD_16BIT(GRU_MASKED_FWD_ENTRY)};
  return kernels;
}

template <>
const std::vector<GruClusterKernel<GruClusterBwdParams<device::bfloat16>>>&
gru_streamed_bwd_kernels<device::bfloat16>() {
  static const std::vector<GruClusterKernel<GruClusterBwdParams<device::bfloat16>>> kernels = {
      GRU_STREAMED_BWD_16BIT(GRU_BWD_ENTRY) GRU_STREAMED_MASKED_BWD_16BIT(GRU_MASKED_BWD_ENTRY)};
  return kernels;
}

}  // namespace gru_ext
