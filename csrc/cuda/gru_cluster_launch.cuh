// Launches of the cluster-persistent and group-persistent kernels; the instantiations include it.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>

#include "gru_cluster_bwd.cuh"
#include "gru_cluster_configs.h"
#include "gru_cluster_fwd.cuh"
#include "gru_group_bwd.cuh"
#include "launchers.h"

namespace gru_ext {

// A launch of so many clusters or groups, with what the kernel needs beyond the default.
template <typename Traits>
struct ClusterLaunch {
  cudaLaunchConfig_t config{};
  cudaLaunchAttribute attribute{};
  cudaError_t error;

  ClusterLaunch(const void* kernel, int clusters, Stream stream) {
    config.gridDim = dim3(static_cast<unsigned>(clusters * Traits::kC));
    config.blockDim = dim3(Traits::kThreads);
    config.dynamicSmemBytes = Traits::kSharedBytes;
    config.stream = static_cast<cudaStream_t>(stream);
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Traits::kSharedBytes);
    if (Traits::kExchange == device::Exchange::cluster) {
      if (Traits::kC > 8 && error == cudaSuccess) {  // more than every GPU has to offer
        error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
      }
      attribute.id = cudaLaunchAttributeClusterDimension;
      attribute.val.clusterDim.x = Traits::kC;
      attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    } else if (Traits::kExchange == device::Exchange::packets) {
      attribute.id = cudaLaunchAttributeCooperative;  // all blocks at the same time, or an error
      attribute.val.cooperative = 1;
    }
    if (Traits::kExchange != device::Exchange::none) {  // GPUs before sm_90 know nothing of clusters
      config.attrs = &attribute;
      config.numAttrs = 1;
    }
  }
};

// Null, or what went wrong. The error is not left behind for the next call to find.
inline const char* words_of(cudaError_t error) {
  if (error == cudaSuccess) return nullptr;
  cudaGetLastError();
  if (error == cudaErrorMemoryAllocation) return kOutOfMemory;
  return cudaGetErrorString(error);
}

template <typename Traits, typename Parameters>
const char* launch_clusters(void (*kernel)(Parameters), const Parameters& p, Stream stream) {
  const int tiles = (p.B + Traits::kRows - 1) / Traits::kRows;
  ClusterLaunch<Traits> launch(reinterpret_cast<const void*>(kernel), p.D * tiles, stream);
  if (launch.error == cudaSuccess) launch.error = cudaLaunchKernelEx(&launch.config, kernel, p);
  return words_of(launch.error);
}

// `count`, or what an error means for it.
inline int resident_unless(cudaError_t error, int count) {
  const char* const words = words_of(error);
  return words == nullptr ? count : is_out_of_memory(words) ? kNoMemoryNow : 0;
}

// Whether the code of a kernel that the current device runs was compiled for sm_80 or later, or whatever `least` is.
// That need not be the device's own: PTX serves later ones.
inline cudaError_t is_compiled_for(int least, const void* kernel, bool& is) {
  cudaFuncAttributes attributes{};
  const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
  is = error == cudaSuccess && attributes.ptxVersion >= least;
  return error;
}

template <typename Traits>
int resident_clusters(const void* kernel) {
  constexpr bool kClusters = Traits::kExchange == device::Exchange::cluster;
  bool is_compiled = false;
  const cudaError_t error = is_compiled_for(kClusters ? 90 : 80, kernel, is_compiled);
  if (error != cudaSuccess || !is_compiled) return resident_unless(error, kNotCompiled);
  ClusterLaunch<Traits> launch(kernel, 1, nullptr);
  int count = 0;
  if (launch.error == cudaSuccess && kClusters) {
    launch.error = cudaOccupancyMaxActiveClusters(&count, kernel, &launch.config);
  } else if (launch.error == cudaSuccess) {
    int device = 0, multiprocessors = 0, blocks = 0;
    launch.error = cudaGetDevice(&device);
    if (launch.error == cudaSuccess) {
      launch.error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
    }
    if (launch.error == cudaSuccess) {
      launch.error =
          cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, Traits::kThreads, Traits::kSharedBytes);
    }
    count = blocks * multiprocessors / Traits::kC;
  }
  return resident_unless(launch.error, count);
}

template <typename Traits>
const char* launch_gru_cluster_fwd(const GruClusterFwdParams<typename Traits::T>& p, Stream stream) {
  return launch_clusters<Traits>(
      p.gates ? device::gru_cluster_fwd_kernel<Traits, true> : device::gru_cluster_fwd_kernel<Traits, false>, p,
      stream);
}

// As many groups at a time as the device runs.
template <typename Traits, typename Parameters>
const char* launch_groups(void (*kernel)(Parameters), const Parameters& p, Stream stream) {
  const void* const pointer = reinterpret_cast<const void*>(kernel);
  const int groups = p.D * ((p.B + Traits::kRows - 1) / Traits::kRows), resident = resident_clusters<Traits>(pointer);
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
const char* launch_gru_group_fwd(const GruClusterFwdParams<typename Traits::T>& p, Stream stream) {
  return launch_groups<Traits>(
      p.gates ? device::gru_group_fwd_kernel<Traits, true> : device::gru_group_fwd_kernel<Traits, false>, p, stream);
}

template <typename Traits>
const char* launch_gru_cluster_bwd(const GruClusterBwdParams<typename Traits::T>& p, Stream stream) {
  return launch_clusters<Traits>(device::gru_cluster_bwd_kernel<Traits>, p, stream);
}

template <typename Traits>
const char* launch_gru_group_bwd(const GruClusterBwdParams<typename Traits::T>& p, Stream stream) {
  return launch_groups<Traits>(device::gru_group_bwd_kernel<Traits>, p, stream);
}

template <typename Traits>
GruClusterKernel<GruClusterFwdParams<typename Traits::T>> gru_cluster_fwd_entry() {
  return {{device::kOnFmaUnits<typename Traits::Operand>, Traits::kHidden, Traits::kC, Traits::kRows,
           Traits::kOverflowBytes, /*packet_bytes=*/0,
           [] {
             return std::min(resident_clusters<Traits>((const void*)device::gru_cluster_fwd_kernel<Traits, true>),
                             resident_clusters<Traits>((const void*)device::gru_cluster_fwd_kernel<Traits, false>));
           }},
          launch_gru_cluster_fwd<Traits>};
}

template <typename Traits>
GruClusterKernel<GruClusterFwdParams<typename Traits::T>> gru_group_fwd_entry() {
  return {{device::kOnFmaUnits<typename Traits::Operand>, Traits::kHidden, Traits::kC, Traits::kRows,
           Traits::kOverflowBytes, Traits::kPacketBytes,
           [] {
             return std::min(resident_clusters<Traits>((const void*)device::gru_group_fwd_kernel<Traits, true>),
                             resident_clusters<Traits>((const void*)device::gru_group_fwd_kernel<Traits, false>));
           }},
          launch_gru_group_fwd<Traits>};
}

template <typename Traits>
GruClusterKernel<GruClusterBwdParams<typename Traits::T>> gru_cluster_bwd_entry() {
  return {{device::kOnFmaUnits<typename Traits::Operand>, Traits::kHidden, Traits::kC, Traits::kRows,
           Traits::kOverflowBytes, /*packet_bytes=*/0,
           [] { return resident_clusters<Traits>((const void*)device::gru_cluster_bwd_kernel<Traits>); }},
          launch_gru_cluster_bwd<Traits>};
}

template <typename Traits>
GruClusterKernel<GruClusterBwdParams<typename Traits::T>> gru_group_bwd_entry() {
  return {{device::kOnFmaUnits<typename Traits::Operand>, Traits::kHidden, Traits::kC, Traits::kRows,
           Traits::kOverflowBytes, Traits::kPacketBytes,
           [] { return resident_clusters<Traits>((const void*)device::gru_group_bwd_kernel<Traits>); }},
          launch_gru_group_bwd<Traits>};
}

}  // namespace gru_ext
