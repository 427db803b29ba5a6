#include "cuda/persistent/group/launch.cuh"

namespace gru_ext {

#define GRU_ENTRY(...) group_bwd_entry<device::GruGroupBwdTraits<device::ieee, __VA_ARGS__>>(),

GRU_ENTRIES(HeldBwdEntries<float>, group_bwd_ieee_entries, GRU_GROUP_BWD_IEEE(GRU_ENTRY))

}  // namespace gru_ext
