#include "../gru_cluster_launch.cuh"

namespace gru_ext {

#define GRU_ENTRY(...) gru_cluster_bwd_entry<device::GruClusterBwdTraits<device::ieee, __VA_ARGS__>>(),
#define GRU_GROUP_ENTRY(...) gru_group_bwd_entry<device::GruGroupBwdTraits<device::ieee, __VA_ARGS__>>(),

const std::vector<GruClusterKernel<GruClusterBwdParams<float>>>& gru_cluster_bwd_ieee_kernels() {
  static const std::vector<GruClusterKernel<GruClusterBwdParams<float>>> kernels = {
      GRU_CLUSTER_BWD_IEEE(GRU_ENTRY) GRU_GROUP_BWD_IEEE(GRU_GROUP_ENTRY)};
  return kernels;
}

}  // namespace gru_ext
