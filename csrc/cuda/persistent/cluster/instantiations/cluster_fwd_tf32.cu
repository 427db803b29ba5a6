#include "cuda/persistent/cluster/launch.cuh"

namespace gru_ext {

#define GRU_ENTRY(...) cluster_fwd_entry<device::GruClusterFwdTraits<float, __VA_ARGS__>>(),

template <>
GRU_ENTRIES(HeldFwdEntries<float>, cluster_fwd_entries<float>, GRU_CLUSTER_FWD_TF32(GRU_ENTRY))

}  // namespace gru_ext
