#include "cuda/persistent/group/launch.cuh"

namespace gru_ext {

#define GRU_ENTRY(...) \
  group_fwd_entry<device::GruClusterFwdTraits<device::bfloat16, __VA_ARGS__, device::Exchange::packets>>(),

template <>
GRU_ENTRIES(HeldFwdEntries<device::bfloat16>, group_fwd_entries<device::bfloat16>, GRU_GROUP_FWD_16BIT(GRU_ENTRY))

}  // namespace gru_ext
