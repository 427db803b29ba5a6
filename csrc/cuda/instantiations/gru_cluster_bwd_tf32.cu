#include "../gru_cluster_launch.cuh"

namespace gru_ext {

#define GRU_ENTRY(...) gru_cluster_bwd_entry<device::GruClusterBwdTraits<float, __VA_ARGS__>>(),
#define GRU_GROUP_ENTRY(...) gru_group_bwd_entry<device::GruGroupBwdTraits<float, __VA_ARGS__>>(),

template <>
const std::vector<GruClusterKernel<GruClusterBwdParams<float>>>& gru_cluster_bwd_kernels<float>() {
  static const std::vector<GruClusterKernel<GruClusterBwdParams<float>>> kernels = {
      GRU_CLUSTER_BWD_TF32(GRU_ENTRY) GRU_GROUP_BWD_TF32(GRU_GROUP_ENTRY)};
  return kernels;
}

}  // namespace gru_ext
