// Launches of the group-persistent kernels; the instantiations include it.
#pragma once

#include "cuda/persistent/group/configs.h"
#include "cuda/persistent/group/entries.h"
#include "cuda/persistent/group/group_bwd.cuh"
#include "cuda/persistent/group/group_fwd.cuh"
#include "cuda/persistent/launch.cuh"

namespace gru_ext {

template <typename Traits, typename Parameters>
const char* launch_groups(void (*kernel)(Parameters), const Parameters& p, Stream stream) {
  return launch_in_turns(p, Traits::kRows, [&](const Parameters& part, int groups) {
    return launch_clusters<Traits>(kernel, part, groups, stream);
  });
}

template <typename Traits>
const char* launch_gru_group_fwd(const PersistentFwdParams<typename Traits::T>& p, Stream stream) {
  return launch_groups<Traits>(
      p.gates ? device::gru_group_fwd_kernel<Traits, true> : device::gru_group_fwd_kernel<Traits, false>, p, stream);
}

template <typename Traits>
const char* launch_gru_group_bwd(const PersistentBwdParams<typename Traits::T>& p, Stream stream) {
  return launch_groups<Traits>(device::gru_group_bwd_kernel<Traits>, p, stream);
}

template <typename Traits>
Launched<HeldEntry, PersistentFwdParams<typename Traits::T>> group_fwd_entry() {
  return {held_entry<Traits>(/*packet_bytes=*/Traits::kPacketBytes,
                             [] {
                               return resident_of_both<Traits>(
                                   (const void*)device::gru_group_fwd_kernel<Traits, true>,
                                   (const void*)device::gru_group_fwd_kernel<Traits, false>);
                             }),
          launch_gru_group_fwd<Traits>};
}

template <typename Traits>
Launched<HeldEntry, PersistentBwdParams<typename Traits::T>> group_bwd_entry() {
  return {
      held_entry<Traits>(/*packet_bytes=*/Traits::kPacketBytes,
                         [] { return resident_clusters<Traits>((const void*)device::gru_group_bwd_kernel<Traits>); }),
      launch_gru_group_bwd<Traits>};
}

}  // namespace gru_ext
