#include "cuda/persistent/group/group.h"

#include "cuda/persistent/group/entries.h"
#include "cuda/persistent/held.h"

namespace gru_ext {
namespace {

class GroupFamily final : public HeldFamily {
 public:
  GroupFamily() : HeldFamily("group") {
    add<device::bfloat16>(at::kBFloat16, group_fwd_entries<device::bfloat16>(), group_bwd_entries<device::bfloat16>());
    add<device::float16>(at::kHalf, group_fwd_entries<device::float16>(), group_bwd_entries<device::float16>());
    add<float>(at::kFloat, group_fwd_entries<float>(), group_bwd_entries<float>());
    add<float>(at::kFloat, group_fwd_ieee_entries(), group_bwd_ieee_entries());
  }
};

}  // namespace

const Family& group_family() {
  static const GroupFamily family;
  return family;
}

}  // namespace gru_ext
