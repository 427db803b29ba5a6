#include "cuda/persistent/group/launch.cuh"

namespace gru_ext {

#define GRU_ENTRY(...) group_bwd_entry<device::GruGroupBwdTraits<device::bfloat16, __VA_ARGS__>>(),

template <>
const HeldBwdEntries<device::bfloat16>& group_bwd_entries<device::bfloat16>() {
  static const HeldBwdEntries<device::bfloat16> entries = {GRU_GROUP_BWD_16BIT(GRU_ENTRY)};
  return entries;
}

}  // namespace gru_ext
