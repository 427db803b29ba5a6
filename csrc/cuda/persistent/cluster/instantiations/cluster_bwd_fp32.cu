#include "cuda/persistent/cluster/launch.cuh"

namespace gru_ext {

#define GRU_ENTRY(...) cluster_bwd_entry<device::GruClusterBwdTraits<device::ieee, __VA_ARGS__>>(),

GRU_ENTRIES(HeldBwdEntries<float>, cluster_bwd_ieee_entries, GRU_CLUSTER_BWD_IEEE(GRU_ENTRY))

}  // namespace gru_ext
