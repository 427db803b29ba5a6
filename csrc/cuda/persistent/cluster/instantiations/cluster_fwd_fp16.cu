#include "cuda/persistent/cluster/launch.cuh"

namespace gru_ext {

#define GRU_ENTRY(...) cluster_fwd_entry<device::GruClusterFwdTraits<device::float16, __VA_ARGS__>>(),

template <>
const HeldFwdEntries<device::float16>& cluster_fwd_entries<device::float16>() {
  static const HeldFwdEntries<device::float16> entries = {GRU_CLUSTER_FWD_16BIT(GRU_ENTRY)};
  return entries;
}

}  // namespace gru_ext
