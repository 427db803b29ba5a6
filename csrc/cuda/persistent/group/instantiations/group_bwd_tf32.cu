#include "cuda/persistent/group/launch.cuh"

namespace gru_ext {

#define GRU_ENTRY(...) group_bwd_entry<device::GruGroupBwdTraits<float, __VA_ARGS__>>(),

template <>
GRU_ENTRIES(HeldBwdEntries<float>, group_bwd_entries<float>, GRU_GROUP_BWD_TF32(GRU_ENTRY))

}  // namespace gru_ext
