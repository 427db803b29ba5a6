// See driver.h. The linker leads every call of a function of WRAPPED (--wrap) to the one here that bears its name
// behind __wrap_; the one that would have been called bears it behind __real_. Sections are of NVIDIA's "CUDA Runtime
// API".
#include "driver.h"

#include <cuda_runtime_api.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <utility>

#include "cudart.h"
#include "device.h"
#include "ptx.h"

namespace cudart {
Driver driver;
}

namespace {

using cudart::driver;

cudaError_t left_behind = cudaSuccess;

// Work of a stream is for the current one of the tensors' device, under a guard for it.
void check_stream(const void* stream) {
  namespace emulator = gru_ext::emulator;
  if (!emulator::guarded) throw ptx::Error("work without a guard for the device of the tensors");
  if (stream != reinterpret_cast<const void*>(emulator::kStream)) {
    throw ptx::Error("work on another stream than the current one of the tensors' device");
  }
}

cudaError_t noted(cudaError_t error) {
  if (error != cudaSuccess) left_behind = error;
  return error;
}

// "Stream Management": what may wait for a stream, or ask what others have done, must not be called during a capture
// of mode global, and invalidates it; a thread may ask for a relaxed mode around calls that a graph has no part in.
cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;

cudaError_t forbidden_by_capture(bool unsafe_in_relaxed_mode) {
  if (!driver.capturing && !driver.elsewhere) return cudaSuccess;
  if (mode == cudaStreamCaptureModeRelaxed && !unsafe_in_relaxed_mode) return cudaSuccess;
  driver.invalidated = true;
  return noted(cudaErrorStreamCaptureUnsupported);
}

// Makes the call, which comes from `place`, unless it is the one that is to fail.
template <typename Call>
cudaError_t counted(const void* place, const Call& call) {
  ++driver.calls;
  driver.of_places.try_emplace(place, driver.calls, 0).first->second.second = driver.calls;
  if (driver.calls == driver.fails_at) {
    ++driver.left;
    return noted(driver.no_memory ? cudaErrorMemoryAllocation : cudaErrorUnknown);
  }
  const cudaError_t error = call();
  driver.left += error != cudaSuccess;
  return error;
}

// The same of a call that needs a kernel: the first one loads it, which takes memory, and is forbidden as that is.
template <typename Call>
cudaError_t counted(const void* place, const void* kernel, const Call& call) {
  ++driver.calls_of_kernels;
  return counted(place, [&] {
    if (cudart::is_loaded(kernel)) return call();
    const cudaError_t forbidden = forbidden_by_capture(/*unsafe_in_relaxed_mode=*/false);
    if (forbidden != cudaSuccess) return forbidden;
    cudart::load(kernel);
    return call();
  });
}

}  // namespace

struct CUevent_st {
  std::optional<std::chrono::steady_clock::time_point> recorded;
};

extern "C" {

// ---- "Event Management"

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  check_stream(stream);
  event->recorded = std::chrono::steady_clock::now();
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return forbidden_by_capture(/*unsafe_in_relaxed_mode=*/true); }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  if (!begin->recorded || !end->recorded) return noted(cudaErrorInvalidResourceHandle);
  double seconds = std::chrono::duration<double>(*end->recorded - *begin->recorded).count();
  if (!driver.seconds.empty()) {
    seconds = driver.seconds.front();
    driver.seconds.pop_front();
  }
  *milliseconds = static_cast<float>(1e3 * seconds);
  return cudaSuccess;
}

// ---- "Stream Management", "Memory Management", "Unified Addressing"

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  check_stream(stream);
  *status = driver.capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* other) {
  std::swap(mode, *other);
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** host, size_t bytes, unsigned) {
  const cudaError_t error = forbidden_by_capture(/*unsafe_in_relaxed_mode=*/false);
  if (error != cudaSuccess) return error;
  *host = std::malloc(bytes);
  ptx::adopt(*host, bytes, /*writable=*/true);
  return cudaSuccess;
}
cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned) {
  *device = host;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* host) {
  ptx::forget(host);
  std::free(host);
  return cudaSuccess;
}

// ---- "Device Management"

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  std::memset(properties, 0, sizeof *properties);
  std::strcpy(properties->name, "interpreter");
  properties->multiProcessorCount = cudart::device.multiprocessors;
  return cudaSuccess;
}

// ---- Calls that fail

cudaError_t __real_cudaGetLastError();
cudaError_t __real_cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int index);

cudaError_t __wrap_cudaGetLastError() {
  const cudaError_t of_launches = __real_cudaGetLastError(), ours = std::exchange(left_behind, cudaSuccess);
  driver.left = 0;
  return of_launches != cudaSuccess ? of_launches : ours;
}

// Those that need a kernel name it last.
#define GRU_WRAPPED(name, parameters, arguments, ...)                            \
  cudaError_t __real_##name parameters;                                          \
  cudaError_t __wrap_##name parameters {                                         \
    const auto call = [&] { return __real_##name arguments; };                   \
    return counted(__builtin_return_address(0), __VA_OPT__(__VA_ARGS__, ) call); \
  }

GRU_WRAPPED(cudaEventCreate, (cudaEvent_t * event), (event))
GRU_WRAPPED(cudaEventRecord, (cudaEvent_t event, cudaStream_t stream), (event, stream))
GRU_WRAPPED(cudaEventSynchronize, (cudaEvent_t event), (event))
GRU_WRAPPED(cudaEventElapsedTime, (float* milliseconds, cudaEvent_t begin, cudaEvent_t end), (milliseconds, begin, end))
GRU_WRAPPED(cudaStreamIsCapturing, (cudaStream_t stream, cudaStreamCaptureStatus* status), (stream, status))
GRU_WRAPPED(cudaHostAlloc, (void** host, size_t bytes, unsigned flags), (host, bytes, flags))
GRU_WRAPPED(cudaHostGetDevicePointer, (void** device, void* host, unsigned flags), (device, host, flags))
GRU_WRAPPED(cudaGetDeviceProperties, (cudaDeviceProp * properties, int index), (properties, index))
GRU_WRAPPED(cudaGetDevice, (int* index), (index))
// ---- "Execution Control", "Occupancy": calls that need a kernel

GRU_WRAPPED(cudaOccupancyMaxActiveBlocksPerMultiprocessor, (int* blocks, const void* host, int threads, size_t shared),
            (blocks, host, threads, shared), host)
GRU_WRAPPED(cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags,
            (int* blocks, const void* host, int threads, size_t shared, unsigned flags),
            (blocks, host, threads, shared, flags), host)
GRU_WRAPPED(cudaOccupancyMaxActiveClusters, (int* clusters, const void* host, const cudaLaunchConfig_t* config),
            (clusters, host, config), host)

cudaError_t __real_cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* host);
cudaError_t __wrap_cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* host) {
  const auto ask = [&] { return __real_cudaFuncGetAttributes(attributes, host); };
  const void* const place = __builtin_return_address(0);
  return driver.unloads ? counted(place, ask) : counted(place, host, ask);
}

cudaError_t __real_cudaFuncSetAttribute(const void* host, cudaFuncAttribute attribute, int value);
cudaError_t __wrap_cudaFuncSetAttribute(const void* host, cudaFuncAttribute attribute, int value) {
  return counted(__builtin_return_address(0), host,
                 [&] { return driver.forgets ? cudaSuccess : __real_cudaFuncSetAttribute(host, attribute, value); });
}

cudaError_t __real_cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* host, void** arguments);
cudaError_t __wrap_cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* host, void** arguments) {
  check_stream(config->stream);
  return counted(__builtin_return_address(0), host,
                 [&] { return __real_cudaLaunchKernelExC(config, host, arguments); });
}

#define GRU_LAUNCH(name, Kernel)                                                                   \
  cudaError_t __real_##name(Kernel kernel, dim3 grid, dim3 block, void** arguments, size_t shared, \
                            cudaStream_t stream);                                                  \
  cudaError_t __wrap_##name(Kernel kernel, dim3 grid, dim3 block, void** arguments, size_t shared, \
                            cudaStream_t stream) {                                                 \
    check_stream(stream);                                                                          \
    return counted(__builtin_return_address(0), kernel,                                            \
                   [&] { return __real_##name(kernel, grid, block, arguments, shared, stream); }); \
  }

GRU_LAUNCH(cudaLaunchKernel, const void*)
GRU_LAUNCH(__cudaLaunchKernel, cudaKernel_t)

cudaError_t __wrap_cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int index) {
  return counted(__builtin_return_address(0), [&] {
    if (attribute != cudaDevAttrClockRate) return __real_cudaDeviceGetAttribute(value, attribute, index);
    *value = 1980000;  // kilohertz
    return cudaSuccess;
  });
}

}  // extern "C"
