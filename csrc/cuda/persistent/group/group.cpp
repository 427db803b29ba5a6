// The group-persistent family: as the cluster-persistent one, for groups of any blocks of the grid, which exchange by
// packets in global memory.
#include "cuda/persistent/group/entries.h"
#include "cuda/persistent/held.h"

namespace gru_ext {

const Family& group_family() {
  struct GroupFamily final : HeldFamily {
    GroupFamily() : HeldFamily("group") {
      using device::bfloat16, device::float16;
      add(at::kBFloat16, group_fwd_entries<bfloat16>(), group_bwd_entries<bfloat16>());
      add(at::kHalf, group_fwd_entries<float16>(), group_bwd_entries<float16>());
      add(at::kFloat, group_fwd_entries<float>(), group_bwd_entries<float>());
      add(at::kFloat, group_fwd_ieee_entries(), group_bwd_ieee_entries());
    }
  };
  static const GroupFamily family;
  return family;
}

}  // namespace gru_ext
