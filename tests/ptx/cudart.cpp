// The part of CUDA's runtime that the launchers call, in the place of libcudart: kernels run in the interpreter, from
// the PTX that nvcc has put into the objects, with the launch that the project's own host code asks for, and what a GPU
// would refuse is refused.
#include "cudart.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <set>
#include <utility>

#include "ptx.h"

namespace cudart {
Device device;
int launches = 0;
std::string last_kernel;
}  // namespace cudart

namespace {

using cudart::device;

constexpr int kSharedWithoutAttribute = 48 * 1024, kSharedOfSystem = 1024, kClusterWithoutAttribute = 8;
constexpr int kMostRegisters = 255, kWarp = 32;
constexpr size_t kMostLocalBytes = 512 * 1024;  // of a thread, on every architecture

// All the texts of an object, by architecture.
struct Object {
  std::map<int, std::string> texts;
  std::map<int, std::shared_ptr<ptx::Module>> modules;

  // Of the text that the device runs, 90 for sm_90; 0 where there is none for it.
  int architecture() const {
    const auto newer = texts.upper_bound(device.architecture);
    return newer == texts.begin() ? 0 : std::prev(newer)->first;
  }
  ptx::Module& module() {
    const int chosen = architecture();
    if (chosen == 0) throw ptx::Error("no PTX for sm_" + std::to_string(device.architecture));
    std::shared_ptr<ptx::Module>& module = modules[chosen];
    if (!module) module = ptx::load(texts.at(chosen));
    return *module;
  }
};

struct Function {
  std::string name;
  Object* object;
  int shared_allowed = kSharedWithoutAttribute;
  bool large_clusters = false;
  bool loaded = false;

  const ptx::Kernel& kernel() const {
    const ptx::Kernel* const found = ptx::find(object->module(), name);
    if (found == nullptr) throw ptx::Error("no PTX of " + name);
    return *found;
  }
};

// Filled before main by what nvcc generates.
std::vector<std::unique_ptr<Object>>& objects() {
  static std::vector<std::unique_ptr<Object>> all;
  return all;
}
std::map<const void*, Function>& functions() {
  static std::map<const void*, Function> all;
  return all;
}

cudaError_t last_error = cudaSuccess;

cudaError_t noted(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

Function* function_at(const void* host) {
  const auto found = functions().find(host);
  return found == functions().end() ? nullptr : &found->second;
}

// A kernel that says for how many threads it is compiled has the registers for them; others may have all.
bool has_registers(const ptx::Requirements& needs, int threads) {
  if (needs.most_threads != 0) return threads <= needs.most_threads;
  const int of_thread = (needs.most_registers != 0 ? needs.most_registers : kMostRegisters + 1 + 7) / 8 * 8;
  return (threads + kWarp - 1) / kWarp * kWarp * of_thread <= device.registers_of_multiprocessor;
}

// How many blocks a multiprocessor runs at a time; of registers a block is taken to need those of a multiprocessor
// unless it says otherwise.
int blocks_of_multiprocessor(const ptx::Requirements& needs, int threads, size_t shared) {
  if (threads < 1 || threads > device.threads_of_multiprocessor || !has_registers(needs, threads)) return 0;
  const int bytes = static_cast<int>(shared + needs.static_shared) + kSharedOfSystem;
  return std::min({device.shared_of_multiprocessor / bytes, device.threads_of_multiprocessor / threads,
                   std::max(1, needs.blocks_of_multiprocessor)});
}

cudaError_t refusal(const Function& f, const ptx::Requirements& needs, const ptx::Launch& l) {
  if (l.grid == 0 || l.block == 0 || l.block > 1024) return cudaErrorInvalidConfiguration;
  if (l.shared_bytes + needs.static_shared > static_cast<size_t>(f.shared_allowed)) return cudaErrorInvalidValue;
  if (!has_registers(needs, l.block) || needs.local_bytes > kMostLocalBytes) return cudaErrorLaunchOutOfResources;
  if (l.cluster > (f.large_clusters ? device.largest_cluster : kClusterWithoutAttribute)) {
    return cudaErrorInvalidClusterSize;
  }
  if (l.cluster > 1 && device.architecture < 90) return cudaErrorNotSupported;
  if (l.grid % l.cluster != 0) return cudaErrorInvalidConfiguration;
  const int resident = blocks_of_multiprocessor(needs, l.block, l.shared_bytes) * device.multiprocessors;
  if (l.cooperative && l.grid > resident) return cudaErrorCooperativeLaunchTooLarge;
  return cudaSuccess;
}

cudaError_t launch(const void* host, dim3 grid, dim3 block, void** arguments, size_t shared, int cluster = 1,
                   bool cooperative = false) {
  const Function* const f = function_at(host);
  if (f == nullptr) return noted(cudaErrorInvalidDeviceFunction);
  if (grid.y != 1 || grid.z != 1 || block.y != 1 || block.z != 1) {
    throw ptx::Error("a launch of more than one dimension, of which the interpreter knows nothing");
  }
  const ptx::Kernel& kernel = f->kernel();
  const ptx::Requirements& needs = ptx::requirements_of(kernel);
  std::vector<char> parameters(needs.parameter_bytes);
  const ptx::Launch l{
      static_cast<int>(grid.x), static_cast<int>(block.x), static_cast<int>(shared), cluster, cooperative,
      parameters.data()};
  const cudaError_t refused = refusal(*f, needs, l);
  if (refused != cudaSuccess) return noted(refused);
  size_t n = 0;
  for (const auto& [offset, size] : ptx::parameters_of(kernel)) {
    std::memcpy(parameters.data() + offset, arguments[n++], size);
  }
  ++cudart::launches;
  cudart::last_kernel = f->name;
  ptx::run(kernel, l);
  return cudaSuccess;
}

// Of a <<<>>> launch.
struct {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
} pushed;

}  // namespace

std::vector<std::string> cudart::kernels() {
  std::set<std::string> names;
  for (const auto& [host, function] : functions()) names.insert(function.name);
  return {names.begin(), names.end()};
}

const void* cudart::kernel_named(const std::string& name) {
  for (const auto& [host, function] : functions()) {
    if (function.name == name) return host;
  }
  return nullptr;
}

bool cudart::is_loaded(const void* kernel) {
  const Function* const f = function_at(kernel);
  return f != nullptr && f->loaded;
}

void cudart::load(const void* kernel) {
  Function* const f = function_at(kernel);
  if (f != nullptr) f->loaded = true;
}

void cudart::new_device() {
  device = {};
  for (auto& [host, function] : functions()) {
    function.shared_allowed = kSharedWithoutAttribute;
    function.large_clusters = false;
    function.loaded = false;
  }
}

extern "C" {

// ---- What nvcc's host code calls

void** __cudaRegisterFatBinary(void* wrapper) {
  try {
    auto object = std::make_unique<Object>();
    for (const std::string& text : ptx::texts_of(wrapper)) object->texts[ptx::target_of(text)] = text;
    objects().push_back(std::move(object));
  } catch (const ptx::Error& e) {  // nobody could catch it before main
    std::fprintf(stderr, "%s\n", e.what());
    std::abort();
  }
  return reinterpret_cast<void**>(objects().back().get());
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void** handle, const char* host, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*,
                            int*) {
  functions()[host] = {name, reinterpret_cast<Object*>(handle)};
}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, struct CUstream_st* stream) {
  pushed = {grid, block, shared, stream};
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  *grid = pushed.grid;
  *block = pushed.block;
  *shared = pushed.shared;
  *static_cast<cudaStream_t*>(stream) = pushed.stream;
  return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* host) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(host));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                               cudaStream_t) {
  return launch(kernel, grid, block, arguments, shared);
}

// ---- "Execution Control"

cudaError_t cudaLaunchKernel(const void* host, dim3 grid, dim3 block, void** arguments, size_t shared, cudaStream_t) {
  return launch(host, grid, block, arguments, shared);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* host, void** arguments) {
  int cluster = 1;
  bool cooperative = false;
  for (unsigned i = 0; i < config->numAttrs; ++i) {
    const cudaLaunchAttribute& attribute = config->attrs[i];
    if (attribute.id == cudaLaunchAttributeClusterDimension) {
      cluster = static_cast<int>(attribute.val.clusterDim.x * attribute.val.clusterDim.y * attribute.val.clusterDim.z);
    } else if (attribute.id == cudaLaunchAttributeCooperative) {
      cooperative = attribute.val.cooperative != 0;
    } else {
      throw ptx::Error("a launch with an attribute of which the interpreter knows nothing");
    }
  }
  return launch(host, config->gridDim, config->blockDim, arguments, config->dynamicSmemBytes, cluster, cooperative);
}
cudaError_t cudaFuncSetAttribute(const void* host, cudaFuncAttribute attribute, int value) {
  Function* const f = function_at(host);
  if (f == nullptr) return noted(cudaErrorInvalidDeviceFunction);
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    if (value < 0 || value > device.shared_of_block) return noted(cudaErrorInvalidValue);
    f->shared_allowed = value;
  } else if (attribute == cudaFuncAttributeNonPortableClusterSizeAllowed) {
    f->large_clusters = value != 0;
  } else {
    return noted(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}

// The only attribute that is asked for: which PTX serves.
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* host) {
  const Function* const f = function_at(host);
  const int architecture = f == nullptr ? 0 : f->object->architecture();
  if (architecture == 0) return noted(cudaErrorInvalidDeviceFunction);
  *attributes = {};
  attributes->ptxVersion = architecture;
  return cudaSuccess;
}

// ---- "Occupancy"

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void* host, int threads,
                                                                   size_t shared, unsigned) {
  const Function* const f = function_at(host);
  if (f == nullptr) return noted(cudaErrorInvalidDeviceFunction);
  *blocks = blocks_of_multiprocessor(ptx::requirements_of(f->kernel()), threads, shared);
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* host, int threads, size_t shared) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, host, threads, shared, 0);
}
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void* host, const cudaLaunchConfig_t* config) {
  int blocks = 0;
  const cudaError_t error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(
      &blocks, host, static_cast<int>(config->blockDim.x), config->dynamicSmemBytes);
  if (error != cudaSuccess) return error;
  if (device.architecture < 90) return noted(cudaErrorNotSupported);
  for (unsigned i = 0; i < config->numAttrs; ++i) {
    if (config->attrs[i].id != cudaLaunchAttributeClusterDimension) continue;
    *clusters = blocks * device.multiprocessors / static_cast<int>(config->attrs[i].val.clusterDim.x);
    return cudaSuccess;
  }
  return noted(cudaErrorInvalidValue);
}

// ---- "Stream Management": nothing is captured, unless there is backend/driver.cpp, whose own this then is

__attribute__((weak)) cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }

// ---- "Device Management", "Error Handling"

cudaError_t cudaGetDevice(int* index) {
  *index = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  if (attribute == cudaDevAttrMultiProcessorCount) {
    *value = device.multiprocessors;
  } else if (attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin) {
    *value = device.shared_of_block;
  } else if (attribute == cudaDevAttrComputeCapabilityMajor) {
    *value = device.architecture / 10;
  } else {
    return noted(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
const char* cudaGetErrorString(cudaError_t error) {
  static const std::map<cudaError_t, const char*> words = {
      {cudaSuccess, "no error"},
      {cudaErrorInvalidValue, "invalid argument"},
      {cudaErrorInvalidConfiguration, "invalid configuration argument"},
      {cudaErrorInvalidDeviceFunction, "invalid device function"},
      {cudaErrorInvalidClusterSize, "cluster target block not valid"},
      {cudaErrorLaunchOutOfResources, "too many resources requested for launch"},
      {cudaErrorCooperativeLaunchTooLarge, "too many blocks in cooperative launch"},
      {cudaErrorNotSupported, "operation not supported"}};
  const auto found = words.find(error);
  return found == words.end() ? "unknown error" : found->second;
}

}  // extern "C"
