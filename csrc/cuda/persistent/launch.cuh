// What launches of the persistent kernels have in common; each family's launch.cuh includes it.
#pragma once

#include <algorithm>

#include "cuda/launch.cuh"
#include "cuda/persistent/held_entry.h"
#include "cuda/persistent/tiles.cuh"
#include "cuda/persistent/turns.h"

namespace gru_ext {

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

// Lets a kernel have so much shared memory on the current device.
inline cudaError_t allow_shared_bytes(const void* kernel, int bytes) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

// A launch of so many clusters or groups.
template <typename Traits>
struct ClusterLaunch {
  cudaLaunchConfig_t config{};
  cudaLaunchAttribute attribute{};

  ClusterLaunch(int clusters, Stream stream) {
    config.gridDim = dim3(static_cast<unsigned>(clusters * Traits::kC));
    config.blockDim = dim3(Traits::kThreads);
    config.dynamicSmemBytes = Traits::kSharedBytes;
    config.stream = static_cast<cudaStream_t>(stream);
    if (Traits::kExchange == device::Exchange::cluster) {
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

template <typename Traits, typename Parameters>
const char* launch_clusters(void (*kernel)(Parameters), const Parameters& p, int clusters, Stream stream) {
  ClusterLaunch<Traits> launch(clusters, stream);
  return words_of(cudaLaunchKernelEx(&launch.config, kernel, p));
}

// How many blocks of so many threads, with so much shared memory, the current device runs at a time.
inline cudaError_t count_resident_blocks(int& count, const void* kernel, int threads, int shared_bytes) {
  int device = 0, multiprocessors = 0, of_multiprocessor = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error == cudaSuccess) {
    error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&of_multiprocessor, kernel, threads, shared_bytes);
  }
  count = of_multiprocessor * multiprocessors;
  return error;
}

template <typename Traits>
int resident_clusters(const void* kernel) {
  constexpr bool kClusters = Traits::kExchange == device::Exchange::cluster;
  const OutsideCaptures outside;
  bool is_compiled = false;
  cudaError_t error = is_compiled_for(kClusters ? 90 : 80, kernel, is_compiled);
  if (error != cudaSuccess || !is_compiled) return resident_unless(error, kNotCompiled);
  error = allow_shared_bytes(kernel, Traits::kSharedBytes);
  if (kClusters && Traits::kC > 8 && error == cudaSuccess) {  // more than every GPU has to offer
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  }
  int count = 0;
  if (error == cudaSuccess && kClusters) {
    const ClusterLaunch<Traits> launch(1, nullptr);
    error = cudaOccupancyMaxActiveClusters(&count, kernel, &launch.config);
  } else if (error == cudaSuccess) {
    error = count_resident_blocks(count, kernel, Traits::kThreads, Traits::kSharedBytes);
    count /= Traits::kC;
  }
  return resident_unless(error, count);
}

// How many at a time of a kernel that comes in two forms, with gates saved and without.
template <typename Traits>
int resident_of_both(const void* with_gates, const void* without) {
  return std::min(resident_clusters<Traits>(with_gates), resident_clusters<Traits>(without));
}

}  // namespace gru_ext
