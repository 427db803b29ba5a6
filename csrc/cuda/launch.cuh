// What launches of all families have in common; the launch.cuh of each includes it.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <iterator>

#include "cuda/device.h"

namespace gru_ext {

// Null, or what went wrong. The error is not left behind for the next call to find.
inline const char* words_of(cudaError_t error) {
  if (error == cudaSuccess) return nullptr;
  cudaGetLastError();
  return error == cudaErrorMemoryAllocation ? kOutOfMemory : cudaGetErrorString(error);
}

// While it lives, what the thread asks of CUDA ends no capture of another thread: no graph has a part in it.
class OutsideCaptures {
 public:
  OutsideCaptures() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~OutsideCaptures() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  OutsideCaptures(const OutsideCaptures&) = delete;
  OutsideCaptures& operator=(const OutsideCaptures&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

// Loads kernels before they are launched; whether all are there now. Left alone, CUDA loads a kernel at its first
// launch; that takes memory and may wait for the device, which the capture of a CUDA graph forbids.
template <typename... Kernels>
bool load_kernels(Kernels... kernels) {
  const void* const all[] = {reinterpret_cast<const void*>(kernels)...};
  const OutsideCaptures outside;
  return std::all_of(std::begin(all), std::end(all), [](const void* kernel) {
    cudaFuncAttributes attributes;  // which can be told of a loaded kernel alone
    return words_of(cudaFuncGetAttributes(&attributes, kernel)) == nullptr;
  });
}

}  // namespace gru_ext
