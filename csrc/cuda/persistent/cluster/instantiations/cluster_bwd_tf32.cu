#include "cuda/persistent/cluster/launch.cuh"

namespace gru_ext {

#define GRU_ENTRY(...) cluster_bwd_entry<device::GruClusterBwdTraits<float, __VA_ARGS__>>(),

template <>
const HeldBwdEntries<float>& cluster_bwd_entries<float>() {
  static const HeldBwdEntries<float> entries = {GRU_CLUSTER_BWD_TF32(GRU_ENTRY)};
  return entries;
}

}  // namespace gru_ext
