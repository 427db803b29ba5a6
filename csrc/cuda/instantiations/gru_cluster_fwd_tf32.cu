#include "../gru_cluster_launch.cuh"

namespace gru_ext {

#define GRU_ENTRY(...) gru_cluster_fwd_entry<device::GruClusterFwdTraits<float, __VA_ARGS__>>(),
#define GRU_GROUP_ENTRY(...) \
  gru_group_fwd_entry<device::GruClusterFwdTraits<float, __VA_ARGS__, device::Exchange::packets>>(),

template <>
const std::vector<GruClusterKernel<GruClusterFwdParams<float>>>& gru_cluster_fwd_kernels<float>() {
  static const std::vector<GruClusterKernel<GruClusterFwdParams<float>>> kernels = {
      GRU_CLUSTER_FWD_TF32(GRU_ENTRY) GRU_GROUP_FWD_TF32(GRU_GROUP_ENTRY)};
  return kernels;
}

}  // namespace gru_ext
