#include "../gru_cluster_launch.cuh"

namespace gru_ext {

#define GRU_ENTRY(...) gru_cluster_fwd_entry<device::GruClusterFwdTraits<device::ieee, __VA_ARGS__>>(),
#define GRU_GROUP_ENTRY(...) \
  gru_group_fwd_entry<device::GruClusterFwdTraits<device::ieee, __VA_ARGS__, device::Exchange::packets>>(),

const std::vector<GruClusterKernel<GruClusterFwdParams<float>>>& gru_cluster_fwd_ieee_kernels() {
  static const std::vector<GruClusterKernel<GruClusterFwdParams<float>>> kernels = {
      GRU_CLUSTER_FWD_IEEE(GRU_ENTRY) GRU_GROUP_FWD_IEEE(GRU_GROUP_ENTRY)};
  return kernels;
}

}  // namespace gru_ext
