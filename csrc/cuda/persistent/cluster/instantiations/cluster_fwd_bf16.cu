#include "cuda/persistent/cluster/launch.cuh"

namespace gru_ext {

#define GRU_ENTRY(...) cluster_fwd_entry<device::GruClusterFwdTraits<device::bfloat16, __VA_ARGS__>>(),

template <>
GRU_ENTRIES(HeldFwdEntries<device::bfloat16>, cluster_fwd_entries<device::bfloat16>, GRU_CLUSTER_FWD_16BIT(GRU_ENTRY))

}  // namespace gru_ext
