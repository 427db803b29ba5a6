// Launches of the streamed kernels; the instantiations include it.
#pragma once

#include "cuda/persistent/launch.cuh"
#include "cuda/persistent/streamed/configs.h"
#include "cuda/persistent/streamed/entries.h"
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

// A cooperative launch of so many blocks.
struct StreamedLaunch {
  cudaLaunchConfig_t config{};
  cudaLaunchAttribute cooperative{};

  StreamedLaunch(int blocks, int threads, int shared_bytes, Stream stream) {
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
    config.stream = static_cast<cudaStream_t>(stream);
    cooperative.id = cudaLaunchAttributeCooperative;  // all blocks at the same time, or an error
    cooperative.val.cooperative = 1;
    config.attrs = &cooperative;
    config.numAttrs = 1;
  }
};

// How many blocks with all the shared memory that there is the device runs at a time. It lets the kernel have all of
// that: the H of a launch decides how much it takes.
template <typename Traits>
int resident_blocks(const void* kernel) {
  const OutsideCaptures outside;
  bool is_compiled = false;
  cudaError_t error = is_compiled_for(80, kernel, is_compiled);
  if (error != cudaSuccess || !is_compiled) return resident_unless(error, kNotCompiled);
  const int shared_bytes = most_shared_bytes();
  if (shared_bytes < Traits::kWeightOffset + Traits::kSlabBytes) return 0;
  int count = 0;
  error = allow_shared_bytes(kernel, shared_bytes);
  if (error == cudaSuccess) error = count_resident_blocks(count, kernel, Traits::kThreads, shared_bytes);
  return resident_unless(error, count);
}

template <typename Traits, typename Parameters>
const char* launch_streamed(void (*kernel)(Parameters), const Parameters& p, Stream stream) {
  const StreamedShape shape = device::streamed_shape<Traits>(p.H, most_shared_bytes());
  if (shape.shared_bytes == 0) return "no group of so many blocks fits on the device";
  return launch_in_turns(p, Traits::kRows, [&](const Parameters& part, int groups) {
    StreamedLaunch launch(groups * shape.blocks, Traits::kThreads, shape.shared_bytes, stream);
    return words_of(cudaLaunchKernelEx(&launch.config, kernel, part));
  });
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

// Defines the entries of a dtype, GRU_NAME, of which `operands` says in which tables they are.
#define GRU_STREAMED_FWD_ENTRY(...) streamed_fwd_entry<device::GruStreamedFwdTraits<GRU_NAME, __VA_ARGS__>, false>(),
#define GRU_MASKED_FWD_ENTRY(...) streamed_fwd_entry<device::GruStreamedFwdTraits<GRU_NAME, __VA_ARGS__>, true>(),
#define GRU_STREAMED_BWD_ENTRY(...) streamed_bwd_entry<device::GruStreamedBwdTraits<GRU_NAME, __VA_ARGS__>, false>(),
#define GRU_MASKED_BWD_ENTRY(...) streamed_bwd_entry<device::GruStreamedBwdTraits<GRU_NAME, __VA_ARGS__>, true>(),
#define GRU_STREAMED_ENTRIES(operands)                                      \
  template <>                                                               \
  GRU_ENTRIES(StreamedFwdEntries<GRU_NAME>, streamed_fwd_entries<GRU_NAME>, \
              GRU_STREAMED_FWD_##operands(GRU_STREAMED_FWD_ENTRY)           \
                  GRU_STREAMED_MASKED_FWD_##operands(GRU_MASKED_FWD_ENTRY)) \
  template <>                                                               \
  GRU_ENTRIES(StreamedBwdEntries<GRU_NAME>, streamed_bwd_entries<GRU_NAME>, \
              GRU_STREAMED_BWD_##operands(GRU_STREAMED_BWD_ENTRY)           \
                  GRU_STREAMED_MASKED_BWD_##operands(GRU_MASKED_BWD_ENTRY))

}  // namespace gru_ext
