#include "../gru_cluster_launch.cuh"

namespace gru_ext {

#define GRU_ENTRY(...) gru_cluster_bwd_entry<device::GruClusterBwdTraits<device::float16, __VA_ARGS__>>(),
#define GRU_GROUP_ENTRY(...) gru_group_bwd_entry<device::GruGroupBwdTraits<device::float16, __VA_ARGS__>>(),

template <>
const std::vector<GruClusterKernel<GruClusterBwdParams<device::float16>>>& gru_cluster_bwd_kernels<device::float16>() {
  static const std::vector<GruClusterKernel<GruClusterBwdParams<device::float16>>> kernels = {
      GRU_CLUSTER_BWD_16BIT(GRU_ENTRY) GRU_GROUP_BWD_16BIT(GRU_GROUP_ENTRY)};
  return kernels;
}

}  // namespace gru_ext
