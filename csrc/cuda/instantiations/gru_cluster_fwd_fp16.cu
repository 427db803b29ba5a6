#include "../gru_cluster_launch.cuh"

namespace gru_ext {

#define GRU_ENTRY(...) gru_cluster_fwd_entry<device::GruClusterFwdTraits<device::float16, __VA_ARGS__>>(),
#define GRU_GROUP_ENTRY(...) \
  gru_group_fwd_entry<device::GruClusterFwdTraits<device::float16, __VA_ARGS__, device::Exchange::packets>>(),

template <>
const std::vector<GruClusterKernel<GruClusterFwdParams<device::float16>>>& gru_cluster_fwd_kernels<device::float16>() {
  static const std::vector<GruClusterKernel<GruClusterFwdParams<device::float16>>> kernels = {
      GRU_CLUSTER_FWD_16BIT(GRU_ENTRY) GRU_GROUP_FWD_16BIT(GRU_GROUP_ENTRY)};
  return kernels;
}

}  // namespace gru_ext
