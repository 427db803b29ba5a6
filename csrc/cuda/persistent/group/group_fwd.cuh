// The group-persistent forward: the cluster-persistent one, whose blocks exchange by packets.
#pragma once

#include "cuda/persistent/cluster/cluster_fwd.cuh"

namespace gru_ext {
namespace device {

template <typename Traits, bool kSaveGates>
GRU_KERNEL(Traits::kThreads, 1)
gru_group_fwd_kernel(const PersistentFwdParams<typename Traits::T> p) {
  if constexpr (kHasAsyncCopies) gru_cluster_fwd<Traits, kSaveGates>(p);
}

}  // namespace device
}  // namespace gru_ext
