// Launches of the streamed kernels; the instantiations include it.
#pragma once

#include "cuda/persistent/launch.cuh"
#include "cuda/persistent/streamed/configs.h"
#include "cuda/persistent/streamed/streamed_bwd.cuh"
#include "cuda/persistent/streamed/streamed_fwd.cuh"

namespace gru_ext {

// Shared memory that a block can have on the current device; 0 if it does not tell.
inline int most_shared_bytes() {
  int device = 0, bytes = 0;
  const bool known = cudaGetDevice(&device) == cudaSuccess &&
                     cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) == cudaSuccess;
  if (known) return bytes;
  cudaGetLastError();
  return 0;
}

// A cooperative launch of so many blocks. The kernel is allowed all the shared memory that there is, however much this
// launch takes: another thread may be about to launch it for a larger H.
struct StreamedLaunch {
  cudaLaunchConfig_t config{};
  cudaLaunchAttribute cooperative{};
  cudaError_t error;

  StreamedLaunch(const void* kernel, int blocks, int threads, int shared_bytes, Stream stream) {
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
    config.stream = static_cast<cudaStream_t>(stream);
    cooperative.id = cudaLaunchAttributeCooperative;  // all blocks at the same time, or an error
    cooperative.val.cooperative = 1;
    config.attrs = &cooperative;
    config.numAttrs = 1;
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most_shared_bytes());
  }
};

// How many blocks with all the shared memory that there is the device runs at a time.
template <typename Traits>
int resident_blocks(const void* kernel) {
  bool is_compiled = false;
  cudaError_t error = is_compiled_for(80, kernel, is_compiled);
  if (error != cudaSuccess || !is_compiled) return resident_unless(error, kNotCompiled);
  const int shared_bytes = most_shared_bytes();
  if (shared_bytes < Traits::kWeightOffset + Traits::kSlabBytes) return 0;
  const StreamedLaunch launch(kernel, 1, Traits::kThreads, shared_bytes, nullptr);
  int device = 0, multiprocessors = 0, of_multiprocessor = 0;
  error = launch.error;
  if (error == cudaSuccess) error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error == cudaSuccess) {
    error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&of_multiprocessor, kernel, Traits::kThreads, shared_bytes);
  }
  return resident_unless(error, of_multiprocessor * multiprocessors);
}

// As many groups at a time as the device runs.
template <typename Traits, typename Parameters>
const char* launch_streamed(void (*kernel)(Parameters), const Parameters& p, Stream stream) {
  const void* const pointer = reinterpret_cast<const void*>(kernel);
  const StreamedShape shape = device::streamed_shape<Traits>(p.H, most_shared_bytes());
  const int groups = clusters_of(p, Traits::kRows);
  if (shape.shared_bytes == 0 || p.streamed.groups == 0) return "no group of so many blocks fits on the device";
  auto part = p;
  for (part.first_group = 0; part.first_group < groups; part.first_group += p.streamed.groups) {
    const int blocks = std::min(p.streamed.groups, groups - part.first_group) * shape.blocks;
    StreamedLaunch launch(pointer, blocks, Traits::kThreads, shape.shared_bytes, stream);
    if (launch.error == cudaSuccess) launch.error = cudaLaunchKernelEx(&launch.config, kernel, part);
    if (launch.error != cudaSuccess) return words_of(launch.error);
  }
  return nullptr;
}

template <typename Traits, typename Parameters, void (*kernel)(Parameters), bool kMasks>
Launched<StreamedEntry, Parameters> streamed_entry() {
  return {{{/*ieee=*/false, Traits::kRows, [] { return resident_blocks<Traits>((const void*)kernel); }},
           Traits::kUnits,
           [](int H) { return device::streamed_shape<Traits>(H, most_shared_bytes()); },
           kMasks},
          [](const Parameters& p, Stream stream) { return launch_streamed<Traits>(kernel, p, stream); }};
}

template <typename Traits, bool kMasks>
Launched<StreamedEntry, PersistentFwdParams<typename Traits::T>> streamed_fwd_entry() {
  using Parameters = PersistentFwdParams<typename Traits::T>;
  return streamed_entry<Traits, Parameters, device::gru_streamed_fwd_kernel<Traits, kMasks>, kMasks>();
}

template <typename Traits, bool kMasks>
Launched<StreamedEntry, PersistentBwdParams<typename Traits::T>> streamed_bwd_entry() {
  using Parameters = PersistentBwdParams<typename Traits::T>;
  return streamed_entry<Traits, Parameters, device::gru_streamed_bwd_kernel<Traits, kMasks>, kMasks>();
}

}  // namespace gru_ext
