// Launches of the group-persistent kernels; the instantiations include it.
#pragma once

#include "cuda/persistent/group/configs.h"
#include "cuda/persistent/group/entries.h"
#include "cuda/persistent/group/group_bwd.cuh"
#include "cuda/persistent/group/group_fwd.cuh"
#include "cuda/persistent/launch.cuh"

namespace gru_ext {

// As many groups at a time as the device runs.
template <typename Traits, typename Parameters>
const char* launch_groups(void (*kernel)(Parameters), const Parameters& p, Stream stream) {
  const void* const pointer = reinterpret_cast<const void*>(kernel);
  const int groups = clusters_of(p, Traits::kRows), resident = resident_clusters<Traits>(pointer);
  if (resident == kNoMemoryNow) return kOutOfMemory;
  if (resident <= 0) return "no group of so many blocks fits on the device";
  auto part = p;
  for (part.first_group = 0; part.first_group < groups; part.first_group += resident) {
    ClusterLaunch<Traits> launch(pointer, std::min(resident, groups - part.first_group), stream);
    if (launch.error == cudaSuccess) launch.error = cudaLaunchKernelEx(&launch.config, kernel, part);
    if (launch.error != cudaSuccess) return words_of(launch.error);
  }
  return nullptr;
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
