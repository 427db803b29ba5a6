#include "cuda/persistent/group/launch.cuh"

namespace gru_ext {

#define GRU_ENTRY(...) \
  group_fwd_entry<device::GruClusterFwdTraits<device::ieee, __VA_ARGS__, device::Exchange::packets>>(),

const HeldFwdEntries<float>& group_fwd_ieee_entries() {
  static const HeldFwdEntries<float> entries = {GRU_GROUP_FWD_IEEE(GRU_ENTRY)};
  return entries;
}

}  // namespace gru_ext
