#include "cuda/persistent/cluster/launch.cuh"

namespace gru_ext {

#define GRU_ENTRY(...) cluster_fwd_entry<device::GruClusterFwdTraits<device::float16, __VA_ARGS__>>(),

template <>
GRU_ENTRIES(HeldFwdEntries<device::float16>, cluster_fwd_entries<device::float16>, GRU_CLUSTER_FWD_16BIT(GRU_ENTRY))

}  // namespace gru_ext
