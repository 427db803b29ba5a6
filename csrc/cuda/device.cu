// What the host asks of the current device, by CUDA's runtime.
#include <cuda_runtime.h>

#include <limits>

#include "cuda/launch.cuh"

namespace gru_ext {

namespace {

// Null where CUDA has none.
struct Event {
  cudaEvent_t event = nullptr;

  Event() {
    if (cudaEventCreate(&event) == cudaSuccess) return;
    cudaGetLastError();  // not left behind for the next call to find
    event = nullptr;
  }
  ~Event() {
    if (event != nullptr) cudaEventDestroy(event);
  }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
};

}  // namespace

std::string device_name() {
  int device = 0;
  cudaDeviceProp properties;
  if (cudaGetDevice(&device) != cudaSuccess || cudaGetDeviceProperties(&properties, device) != cudaSuccess) {
    cudaGetLastError();
    return "unknown";
  }
  return std::string(properties.name) + " " + std::to_string(properties.multiProcessorCount);
}

double measure_seconds(Stream stream, const std::function<void()>& work) {
  constexpr int kRepeats = 5;
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const Event begin, end;
  double least = std::numeric_limits<double>::quiet_NaN();
  for (int i = 0; i <= kRepeats && begin.event != nullptr && end.event != nullptr; ++i) {
    float milliseconds = 0;
    const bool has_begun = cudaEventRecord(begin.event, cuda_stream) == cudaSuccess;
    work();
    if (!has_begun || cudaEventRecord(end.event, cuda_stream) != cudaSuccess ||
        cudaEventSynchronize(end.event) != cudaSuccess ||
        cudaEventElapsedTime(&milliseconds, begin.event, end.event) != cudaSuccess) {
      cudaGetLastError();
      break;
    }
    if (i > 0 && !(least <= 1e-3 * milliseconds)) least = 1e-3 * milliseconds;
  }
  return least;
}

double clock_rate() {
  int device = 0, kilohertz = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&kilohertz, cudaDevAttrClockRate, device) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return 1e3 * kilohertz;
}

bool multiplies_bfloat16() {
  int device = 0, major = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess) {
    cudaGetLastError();
    return true;  // as all but old devices have
  }
  return major >= 8;
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
  const OutsideCaptures outside;
  if (cudaHostAlloc(&host, sizeof(int), cudaHostAllocMapped | cudaHostAllocPortable) != cudaSuccess) {
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
