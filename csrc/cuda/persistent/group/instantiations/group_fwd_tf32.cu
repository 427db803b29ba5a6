#include "cuda/persistent/group/launch.cuh"

namespace gru_ext {

#define GRU_ENTRY(...) group_fwd_entry<device::GruClusterFwdTraits<float, __VA_ARGS__, device::Exchange::packets>>(),

template <>
GRU_ENTRIES(HeldFwdEntries<float>, group_fwd_entries<float>, GRU_GROUP_FWD_TF32(GRU_ENTRY))

}  // namespace gru_ext
