// What the host asks of the current device, by CUDA's runtime.
#include <cuda_runtime.h>

#include "launchers.h"

namespace gru_ext {

double clock_rate() {
  int device = 0, kilohertz = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&kilohertz, cudaDevAttrClockRate, device) != cudaSuccess) {
    cudaGetLastError();  // not left behind for the next call to find
    return 0;
  }
  return 1e3 * kilohertz;
}

bool is_capturing(Stream stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  if (cudaStreamIsCapturing(static_cast<cudaStream_t>(stream), &status) != cudaSuccess) {
    cudaGetLastError();
    return true;  // nothing that a capture forbids is done then
  }
  return status != cudaStreamCaptureStatusNone;
}

SharedWord new_shared_word() {
  void *host = nullptr, *device = nullptr;
  // Memory may be had while another thread captures, whose graph has no part in it.
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  cudaThreadExchangeStreamCaptureMode(&mode);
  const cudaError_t error = cudaHostAlloc(&host, sizeof(int), cudaHostAllocMapped | cudaHostAllocPortable);
  cudaThreadExchangeStreamCaptureMode(&mode);
  if (error != cudaSuccess) {
    cudaGetLastError();
    return {nullptr, nullptr};
  }
  if (cudaHostGetDevicePointer(&device, host, 0) != cudaSuccess) {
    cudaGetLastError();
    cudaFreeHost(host);
    return {nullptr, nullptr};
  }
  *static_cast<volatile int*>(host) = 0;
  return {static_cast<volatile int*>(host), static_cast<int*>(device)};
}

}  // namespace gru_ext
