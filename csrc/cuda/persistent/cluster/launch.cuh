// Launches of the cluster-persistent kernels; the instantiations include it.
#pragma once

#include "cuda/persistent/cluster/cluster_bwd.cuh"
#include "cuda/persistent/cluster/cluster_fwd.cuh"
#include "cuda/persistent/cluster/configs.h"
#include "cuda/persistent/cluster/entries.h"
#include "cuda/persistent/launch.cuh"

namespace gru_ext {

template <typename Traits>
const char* launch_gru_cluster_fwd(const PersistentFwdParams<typename Traits::T>& p, Stream stream) {
  return launch_clusters<Traits>(
      p.gates ? device::gru_cluster_fwd_kernel<Traits, true> : device::gru_cluster_fwd_kernel<Traits, false>, p,
      clusters_of(p, Traits::kRows), stream);
}

template <typename Traits>
const char* launch_gru_cluster_bwd(const PersistentBwdParams<typename Traits::T>& p, Stream stream) {
  return launch_clusters<Traits>(device::gru_cluster_bwd_kernel<Traits>, p, clusters_of(p, Traits::kRows), stream);
}

template <typename Traits>
Launched<HeldEntry, PersistentFwdParams<typename Traits::T>> cluster_fwd_entry() {
  return {held_entry<Traits>(/*packet_bytes=*/0,
                             [] {
                               return resident_of_both<Traits>(
                                   (const void*)device::gru_cluster_fwd_kernel<Traits, true>,
                                   (const void*)device::gru_cluster_fwd_kernel<Traits, false>);
                             }),
          launch_gru_cluster_fwd<Traits>};
}

template <typename Traits>
Launched<HeldEntry, PersistentBwdParams<typename Traits::T>> cluster_bwd_entry() {
  return {
      held_entry<Traits>(/*packet_bytes=*/0,
                         [] { return resident_clusters<Traits>((const void*)device::gru_cluster_bwd_kernel<Traits>); }),
      launch_gru_cluster_bwd<Traits>};
}

}  // namespace gru_ext
