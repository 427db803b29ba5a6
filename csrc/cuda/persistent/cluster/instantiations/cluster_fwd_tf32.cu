#include "cuda/persistent/cluster/launch.cuh"

namespace gru_ext {

#define GRU_ENTRY(...) cluster_fwd_entry<device::GruClusterFwdTraits<float, __VA_ARGS__>>(),

template <>
const HeldFwdEntries<float>& cluster_fwd_entries<float>() {
  static const HeldFwdEntries<float> entries = {GRU_CLUSTER_FWD_TF32(GRU_ENTRY)};
  return entries;
}

}  // namespace gru_ext
