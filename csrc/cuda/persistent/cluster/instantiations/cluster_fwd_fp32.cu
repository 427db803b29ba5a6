#include "cuda/persistent/cluster/launch.cuh"

namespace gru_ext {

#define GRU_ENTRY(...) cluster_fwd_entry<device::GruClusterFwdTraits<device::ieee, __VA_ARGS__>>(),

const HeldFwdEntries<float>& cluster_fwd_ieee_entries() {
  static const HeldFwdEntries<float> entries = {GRU_CLUSTER_FWD_IEEE(GRU_ENTRY)};
  return entries;
}

}  // namespace gru_ext
