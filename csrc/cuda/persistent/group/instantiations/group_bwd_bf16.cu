#include "cuda/persistent/group/launch.cuh"

namespace gru_ext {

#define GRU_ENTRY(...) group_bwd_entry<device::GruGroupBwdTraits<device::bfloat16, __VA_ARGS__>>(),

template <>
GRU_ENTRIES(HeldBwdEntries<device::bfloat16>, group_bwd_entries<device::bfloat16>, GRU_GROUP_BWD_16BIT(GRU_ENTRY))

}  // namespace gru_ext
