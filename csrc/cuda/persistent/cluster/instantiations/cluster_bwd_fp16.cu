#include "cuda/persistent/cluster/launch.cuh"

namespace gru_ext {

#define GRU_ENTRY(...) cluster_bwd_entry<device::GruClusterBwdTraits<device::float16, __VA_ARGS__>>(),

template <>
GRU_ENTRIES(HeldBwdEntries<device::float16>, cluster_bwd_entries<device::float16>, GRU_CLUSTER_BWD_16BIT(GRU_ENTRY))

}  // namespace gru_ext
