// The operators of the CUDA backend on CPU tensors, as gru_ext_compiled::gru_fwd and so on: its host side as it is,
// products by torch on the CPU, and what nvcc has made of the kernels and launchers, with the interpreter behind them.
// Memory of torch's that a kernel touches must have been allocated after this library was loaded.
#include <c10/core/CPUAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "../cudart.h"
#include "../ptx.h"
#include "driver.h"
#include "cuda/operators.h"

// products.cpp
extern int64_t mixed_products;
at::Tensor product(const at::Tensor& a, const at::Tensor& weight);

namespace {

int index_of_device = 0;

// Torch's memory on the CPU, each piece of which is known to the interpreter as long as it lives.
class KnownMemory : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    void* const p = torchs()->raw_allocate(bytes);
    if (bytes > 0) {
      const std::lock_guard<std::mutex> lock(mutex_);
      ptx::adopt(p, bytes, /*writable=*/true);
    }
    return {p, p, &release, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

  static c10::Allocator* torchs() {
    static c10::Allocator* const allocator = c10::GetDefaultCPUAllocator();
    return allocator;
  }

 private:
  static inline std::mutex mutex_;
  static void release(void* p) {
    if (p == nullptr) return;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ptx::forget(p);
    }
    torchs()->raw_deallocate(p);
  }
};

const bool installed = [] {
  static KnownMemory memory;
  c10::SetCPUAllocator(&memory, /*priority=*/255);
  return true;
}();

// From now on there is a new device, of which nothing is known yet.
void new_device(int64_t multiprocessors) {
  ++index_of_device;
  cudart::new_device();
  cudart::device.multiprocessors = static_cast<int>(multiprocessors);
  cudart::driver = {};
  ptx::options = {};
}

// Launches a kernel with no parameters, as a launcher would that asks the driver for no more than this; returns what
// the driver says. Where it is launched, it gets no further than its parameters.
std::string launch(const std::string& name, int64_t grid, int64_t threads, int64_t shared_bytes, int64_t cluster,
                   bool cooperative) {
  const void* const kernel = cudart::kernel_named(name);
  TORCH_CHECK(kernel != nullptr, "no kernel ", name);
  const c10::cuda::CUDAGuard guard(c10::Device(c10::kCPU));
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  attributes[1].id = cudaLaunchAttributeCooperative;
  attributes[1].val.cooperative = cooperative;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(grid));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = static_cast<cudaStream_t>(c10::cuda::getCurrentCUDAStream().stream());
  config.attrs = attributes;
  config.numAttrs = 2;
  static const std::vector<char> zeros(4096);
  std::vector<void*> parameters(16, const_cast<char*>(zeros.data()));
  const int before = cudart::launches;
  cudaError_t error = cudaSuccess;
  try {
    error = cudaLaunchKernelExC(&config, kernel, parameters.data());
  } catch (const ptx::Error&) {
    if (cudart::launches == before) throw;
  }
  cudaGetLastError();
  return cudart::launches > before ? "launched" : cudaGetErrorString(error);
}

}  // namespace

// The stand-ins for c10/cuda ask it.
bool gru_ext::emulator::guarded = false;

namespace c10::cuda {

int current_device() { return index_of_device; }

}  // namespace c10::cuda

TORCH_LIBRARY(gru_ext_compiled, m) {
  gru_ext::define_operators(m);
  gru_ext::define_kernel_choice(m);
  m.def("new_device(int multiprocessors) -> ()", &new_device);
  // The call of CUDA's runtime that fails, counted from now on, for want of memory or otherwise; 0: none.
  m.def("fail_call(int number, bool no_memory=False) -> ()", [](int64_t number, bool no_memory) {
    cudart::driver.calls = 0;
    cudart::driver.of_places.clear();
    cudart::driver.fails_at = number;
    cudart::driver.no_memory = no_memory;
  });
  m.def("calls() -> int", [] { return cudart::driver.calls; });
  m.def("calls_of_kernels() -> int", [] { return cudart::driver.calls_of_kernels; });
  // Numbers of calls so far: the first and the last of each place in the code.
  m.def("calls_of_places() -> int[]", [] {
    std::set<int64_t> numbers;
    for (const auto& [place, calls] : cudart::driver.of_places) numbers.insert({calls.first, calls.second});
    return std::vector<int64_t>(numbers.begin(), numbers.end());
  });
  m.def("errors_left() -> int", [] { return cudart::driver.left; });
  // From now on the asynchronous store of this number, counted in every launch, is lost, and waits end; -1: none.
  m.def("lose_store(int number) -> ()", [](int64_t number) {
    ptx::options.lost_store = number;
    ptx::options.time_out = number >= 0;
    ptx::options.races = number < 0;  // those that do not wait long enough race
  });
  // Whether accesses to memory are checked for their order, until there is another device.
  m.def("check_order(bool checks) -> ()", [](bool checks) { ptx::options.races = checks; });
  m.def("capture(bool capturing) -> ()", [](bool capturing) { cudart::driver.capturing = capturing; });
  // Whether another thread captures on a stream of its own.
  m.def("capture_elsewhere(bool capturing) -> ()", [](bool capturing) { cudart::driver.elsewhere = capturing; });
  m.def("capture_was_invalidated() -> bool", [] { return cudart::driver.invalidated; });
  m.def("set_seconds(float[] seconds) -> ()",
        [](const std::vector<double>& seconds) { cudart::driver.seconds = {seconds.begin(), seconds.end()}; });
  m.def("limit_shared_memory(int bytes) -> ()",
        [](int64_t bytes) { cudart::device.shared_of_block = static_cast<int>(bytes); });
  m.def("launches() -> int", [] { return int64_t{cudart::launches}; });
  m.def("last_kernel() -> str", [] { return cudart::last_kernel; });
  m.def("kernels_run() -> str[]", [] { return ptx::kernels_run(); });
  m.def("coverage() -> str", &ptx::coverage);
  m.def("forget_attributes(bool forgets) -> ()", [](bool forgets) { cudart::driver.forgets = forgets; });
  m.def("unload_kernels(bool unloads) -> ()", [](bool unloads) { cudart::driver.unloads = unloads; });
  m.def("plant(str expression, str replacement) -> ()", &ptx::plant);
  m.def("set_architecture(int number) -> ()",
        [](int64_t number) { cudart::device.architecture = static_cast<int>(number); });
  m.def("mixed_products() -> int", [] { return mixed_products; });
  // As the library has measurements made, of nothing.
  m.def("measure_nothing() -> float", [] {
    const c10::cuda::CUDAGuard guard(c10::Device(c10::kCPU));
    return gru_ext::measure_seconds(c10::cuda::getCurrentCUDAStream().stream(), [] {});
  });
  m.def("product(Tensor a, Tensor weight) -> Tensor");
  m.def("launch(str name, int grid, int threads, int shared_bytes, int cluster=1, bool cooperative=False) -> str",
        &launch);
}

TORCH_LIBRARY_IMPL(gru_ext_compiled, CPU, m) {
  gru_ext::implement_operators(m);
  m.impl("product", &product);
}
