#include "cuda/persistent/group/launch.cuh"

namespace gru_ext {

#define GRU_ENTRY(...) \
  group_fwd_entry<device::GruClusterFwdTraits<device::ieee, __VA_ARGS__, device::Exchange::packets>>(),

GRU_ENTRIES(HeldFwdEntries<float>, group_fwd_ieee_entries, GRU_GROUP_FWD_IEEE(GRU_ENTRY))

}  // namespace gru_ext
