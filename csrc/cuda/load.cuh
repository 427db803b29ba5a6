// Loads kernels before they are launched. Left alone, CUDA loads a kernel at its first launch; that takes memory and
// may wait for the device, which the capture of a CUDA graph forbids.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <iterator>

namespace gru_ext {

// Whether all are loaded now. The error is not left behind for the next call to find.
template <typename... Kernels>
bool load_kernels(Kernels... kernels) {
  const void* const all[] = {reinterpret_cast<const void*>(kernels)...};
  // In no capture's way: a graph has no part in it.
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  cudaThreadExchangeStreamCaptureMode(&mode);
  const bool loaded = std::all_of(std::begin(all), std::end(all), [](const void* kernel) {
    cudaFuncAttributes attributes;  // which can be told of a loaded kernel alone
    return cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess;
  });
  cudaThreadExchangeStreamCaptureMode(&mode);
  if (!loaded) cudaGetLastError();
  return loaded;
}

}  // namespace gru_ext
