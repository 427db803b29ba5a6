#include "cuda/persistent/cluster/launch.cuh"

namespace gru_ext {

#define GRU_ENTRY(...) cluster_bwd_entry<device::GruClusterBwdTraits<device::ieee, __VA_ARGS__>>(),

const HeldBwdEntries<float>& cluster_bwd_ieee_entries() {
  static const HeldBwdEntries<float> entries = {GRU_CLUSTER_BWD_IEEE(GRU_ENTRY)};
  return entries;
}

}  // namespace gru_ext
