#include "cuda/persistent/cluster/launch.cuh"

namespace gru_ext {

#define GRU_ENTRY(...) cluster_fwd_entry<device::GruClusterFwdTraits<device::ieee, __VA_ARGS__>>(),

GRU_ENTRIES(HeldFwdEntries<float>, cluster_fwd_ieee_entries, GRU_CLUSTER_FWD_IEEE(GRU_ENTRY))

}  // namespace gru_ext
