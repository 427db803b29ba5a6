#include "cuda/persistent/cluster/cluster.h"

#include "cuda/persistent/cluster/entries.h"
#include "cuda/persistent/held.h"

namespace gru_ext {
namespace {

class ClusterFamily final : public HeldFamily {
 public:
  ClusterFamily() : HeldFamily("cluster") {
    add<device::bfloat16>(at::kBFloat16, cluster_fwd_entries<device::bfloat16>(),
                          cluster_bwd_entries<device::bfloat16>());
    add<device::float16>(at::kHalf, cluster_fwd_entries<device::float16>(), cluster_bwd_entries<device::float16>());
    add<float>(at::kFloat, cluster_fwd_entries<float>(), cluster_bwd_entries<float>());
    add<float>(at::kFloat, cluster_fwd_ieee_entries(), cluster_bwd_ieee_entries());
  }
};

}  // namespace

const Family& cluster_family() {
  static const ClusterFamily family;
  return family;
}

}  // namespace gru_ext
