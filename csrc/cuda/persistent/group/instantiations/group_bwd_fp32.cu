#include "cuda/persistent/group/launch.cuh"

namespace gru_ext {

#define GRU_ENTRY(...) group_bwd_entry<device::GruGroupBwdTraits<device::ieee, __VA_ARGS__>>(),

const HeldBwdEntries<float>& group_bwd_ieee_entries() {
  static const HeldBwdEntries<float> entries = {GRU_GROUP_BWD_IEEE(GRU_ENTRY)};
  return entries;
}

}  // namespace gru_ext
