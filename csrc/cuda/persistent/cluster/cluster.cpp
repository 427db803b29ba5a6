// The cluster-persistent family: R in the registers and shared memory of a cluster of blocks, which exchange the state
// by asynchronous stores to each other's shared memory.
#include "cuda/persistent/cluster/entries.h"
#include "cuda/persistent/held.h"

namespace gru_ext {

const Family& cluster_family() {
  struct ClusterFamily final : HeldFamily {
    ClusterFamily() : HeldFamily("cluster") {
      using device::bfloat16, device::float16;
      add(at::kBFloat16, cluster_fwd_entries<bfloat16>(), cluster_bwd_entries<bfloat16>());
      add(at::kHalf, cluster_fwd_entries<float16>(), cluster_bwd_entries<float16>());
      add(at::kFloat, cluster_fwd_entries<float>(), cluster_bwd_entries<float>());
      add(at::kFloat, cluster_fwd_ieee_entries(), cluster_bwd_ieee_entries());
    }
  };
  static const ClusterFamily family;
  return family;
}

}  // namespace gru_ext
