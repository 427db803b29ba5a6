#include "cuda/persistent/cluster/launch.cuh"

namespace gru_ext {

#define GRU_ENTRY(...) cluster_bwd_entry<device::GruClusterBwdTraits<float, __VA_ARGS__>>(),

template <>
GRU_ENTRIES(HeldBwdEntries<float>, cluster_bwd_entries<float>, GRU_CLUSTER_BWD_TF32(GRU_ENTRY))

}  // namespace gru_ext
