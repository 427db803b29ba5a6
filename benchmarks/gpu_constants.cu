// Measures what the time model of docs/kernels.md is made of, with the primitives that the kernels use. It needs
// clusters, so a GPU from sm_90 on.
//
//     gpu_constants          prints the names of the measurements
//     gpu_constants NAME     makes one, and prints what it found as a JSON object
//
// Cycles are those of the multiprocessors' clock, medians over launches; the first launch of each is not counted. What
// is measured once, between two blocks, runs alone on the GPU; rates run on every multiprocessor at a time. Where the
// device refuses a launch, as it may a cluster size, the reason stands in the place of the number. Any other error ends
// the program, with exit status 1.
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cuda/primitives.cuh"

namespace gru_ext {
namespace device {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize, kRounds = 500, kLaunches = 5;
constexpr uint32_t kWaitLimit = 1000000000 / kWaitTick;  // that a block waits for another one
constexpr int kOneBlockBytes = 120 << 10;    // of shared memory: no second block fits on the multiprocessor

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

// ---- Kernels. Each writes the cycles of its rounds to cycles[block]; -1 where a wait took too long.

GRU_KERNEL(kThreads, 1) block_barrier_kernel(long long* cycles) {
  block_barrier();
  const long long start = clock64();
  for (int i = 0; i < kRounds; ++i) block_barrier();
  if (thread_index() == 0) cycles[block_index()] = clock64() - start;
}

GRU_KERNEL(kThreads, 1) cluster_barrier_kernel(long long* cycles) {
  cluster_barrier();
  const long long start = clock64();
  for (int i = 0; i < kRounds; ++i) cluster_barrier();
  if (thread_index() == 0) cycles[block_index()] = clock64() - start;
}

// 16 bytes from block 0 of a cluster to the last one and back, kRounds times.
GRU_KERNEL(kWarpSize, 1) dsmem_latency_kernel(long long* cycles, int blocks) {
  u32x4* const slot = reinterpret_cast<u32x4*>(shared_memory());
  uint64_t* const mbarrier = reinterpret_cast<uint64_t*>(shared_memory() + sizeof(u32x4));
  const int rank = cluster_rank(), last = blocks - 1;
  const bool plays = thread_index() == 0 && (rank == 0 || rank == last);
  if (plays) {
    mbarrier_init(mbarrier, 1);
    mbarrier_arrive_expect(mbarrier, 16);
    mbarrier_init_fence();
  }
  cluster_barrier();
  if (plays) {
    bool in_time = true;
    const long long start = clock64();
    for (int i = 0; i < kRounds && in_time; ++i) {
      if (rank == 0) store_async(slot, mbarrier, last, u32x4{});
      in_time = mbarrier_wait(mbarrier, i % 2, kWaitLimit);
      mbarrier_arrive_expect(mbarrier, 16);
      if (rank == last) store_async(slot, mbarrier, 0, u32x4{});
    }
    cycles[rank] = in_time ? clock64() - start : -1;
  }
  cluster_barrier();
}

// Every block of a cluster sends `bytes` to each, itself too, and waits for all that it gets, kRounds times.
GRU_KERNEL(kThreads, 1) dsmem_exchange_kernel(long long* cycles, int blocks, int bytes) {
  uint64_t* const mbarriers = reinterpret_cast<uint64_t*>(shared_memory());
  char* const received = shared_memory() + 128;  // (2, blocks, bytes)
  const int rank = cluster_rank(), packets = bytes / 16;
  if (thread_index() == 0) {
    for (int i = 0; i < 2; ++i) {
      mbarrier_init(mbarriers + i, 1);
      mbarrier_arrive_expect(mbarriers + i, blocks * bytes);
    }
    mbarrier_init_fence();
  }
  cluster_barrier();
  bool in_time = true;
  const long long start = clock64();
  for (int round = 0; round < kRounds && in_time; ++round) {
    const int buffer = round % 2;
    for (int i = thread_index(); i < blocks * packets; i += kThreads) {
      const int to = (rank + i / packets) % blocks;
      store_async(received + ((buffer * blocks + rank) * packets + i % packets) * 16, mbarriers + buffer, to, u32x4{});
    }
    in_time = mbarrier_wait(mbarriers + buffer, round / 2 % 2, kWaitLimit);
    if (thread_index() == 0) mbarrier_arrive_expect(mbarriers + buffer, blocks * bytes);
    in_time = !block_barrier_or(!in_time);
  }
  if (thread_index() == 0) cycles[block_index()] = in_time ? clock64() - start : -1;
  cluster_barrier();
}

// A word and its tag, in one 8-byte store through the L2 cache, from the first block to the last and back.
GRU_KERNEL(kWarpSize, 1) tagged_latency_kernel(long long* cycles, volatile unsigned long long* slots) {
  const int block = block_index(), last = block_count() - 1;
  if (thread_index() != 0 || (block != 0 && block != last)) return;
  volatile unsigned long long* const mine = slots + (block == 0 ? 0 : 16);
  volatile unsigned long long* const theirs = slots + (block == 0 ? 16 : 0);
  bool in_time = true;
  const uint32_t begin = wait_ticks();
  const long long start = clock64();
  for (unsigned long long tag = 1; tag <= kRounds && in_time; ++tag) {
    if (block == 0) *theirs = tag << 32;
    while (*mine >> 32 != tag && in_time) in_time = wait_ticks() - begin < kWaitLimit;
    if (block == last) *theirs = tag << 32;
  }
  cycles[block] = in_time ? clock64() - start : -1;
}

// All blocks of the grid exchange 16 bytes by flags, as the streamed kernels do: each stores, raises its flag, waits
// for every other's with one warp, and has copied what another stored, kRounds times. `flags`, zero: 32 bytes a block;
// `words`: two buffers of 16 bytes a block.
GRU_KERNEL(kThreads, 1) flags_kernel(long long* cycles, uint32_t* flags, uint32_t* words) {
  const int block = block_index(), blocks = block_count(), thread = thread_index();
  bool in_time = true;
  const long long start = clock64();
  for (uint32_t round = 1; round <= kRounds && in_time; ++round) {
    uint32_t* const buffer = words + round % 2 * blocks * 4;
    if (thread < 4) store_exchanged(buffer + block * 4 + thread, round);
    block_barrier();
    if (thread == 0) raise_flag(flags + block * 8, round);
    for (int other = thread; other < blocks && thread < kWarpSize; other += kWarpSize) {
      in_time = in_time && wait_for_flag(flags + other * 8, round, kWaitLimit);
    }
    in_time = !block_barrier_or(!in_time);
    if (thread == 0) copy_exchanged_async(shared_memory(), buffer + (block + 1) % blocks * 4);
    copy_async_wait();
  }
  if (thread == 0) cycles[block] = in_time ? clock64() - start : -1;
}

// Every block copies to shared memory what all copy, 16 bytes a thread and four copies under way: from `bytes` of
// memory, in turn, kCopies times a block's size.
constexpr int kCopies = 2000, kCopyStages = 4;
GRU_KERNEL(kThreads, 1) copy_rate_kernel(long long* cycles, const char* from, int64_t bytes) {
  constexpr int kBlockBytes = kThreads * 16;
  char* const to = shared_memory() + thread_index() * 16;
  const int64_t parts = bytes / kBlockBytes;
  const auto copy = [&](int i) {
    const int64_t part = (static_cast<int64_t>(i) * block_count() + block_index()) % parts;
    copy_async(to + i % kCopyStages * kBlockBytes, from + part * kBlockBytes + thread_index() * 16, true);
    copy_async_commit();
  };
  const long long start = clock64();
  for (int i = 0; i < kCopies; ++i) {
    copy_async_wait_but<kCopyStages - 1>();
    copy(i);
  }
  copy_async_wait();
  block_barrier();
  if (thread_index() == 0) cycles[block_index()] = clock64() - start;
}

// The products of a forward step: three gates, kTiles A tiles of each, 8 kColumns rows of h by ldmatrix.
constexpr int kTiles = 4;
template <typename Operand, int kColumns, bool kSharedWeights>
GRU_KERNEL(kThreads, 1)
mma_rate_kernel(long long* cycles, float* sink) {
  constexpr int kPitch = kTiles * 8 + 4;                                                      // words
  uint32_t* const h = reinterpret_cast<uint32_t*>(shared_memory());                           // (8 kColumns, kPitch)
  u32x4* const overflow = reinterpret_cast<u32x4*>(shared_memory() + 8192) + thread_index();  // kThreads apart
  const int lane = thread_index() % kWarpSize;
  for (int i = thread_index(); i < 8 * kColumns * kPitch; i += kThreads) h[i] = 0;
  uint32_t weights[3][kTiles][4];
  GRU_UNROLL
  for (int gate = 0; gate < 3; ++gate) {
    GRU_UNROLL
    for (int tile = 0; tile < kTiles; ++tile) {
      // Small numbers in every operand type, not known when this is compiled.
      GRU_UNROLL
      for (int i = 0; i < 4; ++i) weights[gate][tile][i] = static_cast<uint32_t>(thread_index() + gate + tile * 5 + i);
      if (kSharedWeights) overflow[(gate * kTiles + tile) * kThreads] = u32x4{weights[gate][tile][0], 1, 2, 3};
    }
  }
  float d[3][kColumns][4] = {};
  block_barrier();
  const long long start = clock64();
  GRU_NO_UNROLL
  for (int round = 0; round < kRounds; ++round) {
    int offset = 0;
    asm volatile("" : "+r"(offset));  // unknown to the compiler, which so loads in each round anew
    GRU_UNROLL
    for (int tile = 0; tile < kTiles; tile += 2) {
      uint32_t b[kColumns][4];
      GRU_UNROLL
      for (int n = 0; n < kColumns; ++n) {
        ldmatrix_x4(b[n], h + (n * 8 + lane % 8) * kPitch + tile * 8 + lane / 8 * 4);
      }
      GRU_UNROLL
      for (int k = 0; k < 2; ++k) {
        GRU_UNROLL
        for (int gate = 0; gate < 3; ++gate) {
          uint32_t a[4];
          if (kSharedWeights) {
            const u32x4 v = load_shared(overflow + offset + (gate * kTiles + tile + k) * kThreads);
            a[0] = v.x, a[1] = v.y, a[2] = v.z, a[3] = v.w;
          } else {
            GRU_UNROLL
            for (int i = 0; i < 4; ++i) a[i] = weights[gate][tile + k][i];
          }
          GRU_UNROLL
          for (int n = 0; n < kColumns; ++n) mma<Operand>(d[gate][n], a, b[n][2 * k], b[n][2 * k + 1]);
        }
      }
    }
  }
  block_barrier();
  const long long end = clock64();
  float sum = 0;
  GRU_UNROLL
  for (int gate = 0; gate < 3; ++gate) {
    GRU_UNROLL
    for (int n = 0; n < kColumns; ++n) sum += d[gate][n][0] + d[gate][n][1] + d[gate][n][2] + d[gate][n][3];
  }
  sink[block_index() * kThreads + thread_index()] = sum;
  if (thread_index() == 0) cycles[block_index()] = end - start;
}

GRU_KERNEL(kWarpSize, 1) empty_kernel() {}

GRU_KERNEL(1, 1) clock_kernel(long long* cycles) {  // cycles[0]: cycles; cycles[1]: nanoseconds
  const uint64_t begin = nanoseconds();
  const long long start = clock64();
  while (nanoseconds() - begin < 20000000) {
  }
  cycles[0] = clock64() - start;
  cycles[1] = static_cast<long long>(nanoseconds() - begin);
}

// ---- Host side

// Values on the device.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(int64_t count) : bytes_(count * sizeof(T)) { check(cudaMalloc(&data_, bytes_), "cudaMalloc"); }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() const { return data_; }
  void clear() const { check(cudaMemset(data_, 0, bytes_), "cudaMemset"); }
  std::vector<T> values() const {
    std::vector<T> found(bytes_ / sizeof(T));
    check(cudaMemcpy(found.data(), data_, bytes_, cudaMemcpyDeviceToHost), "kernel");
    return found;
  }

 private:
  T* data_ = nullptr;
  size_t bytes_;
};

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", value);
  return text;
}

// A JSON object, of names and values that are JSON.
class Object {
 public:
  Object& add(const std::string& name, const std::string& value) {
    text_ += (text_.empty() ? "\"" : ", \"") + name + "\": " + value;
    return *this;
  }
  std::string text() const { return "{" + text_ + "}"; }

 private:
  std::string text_;
};

// The number that was found; or, where the device refuses the launch, why.
template <typename Measure>
std::string attempt(const Measure& measure) {
  try {
    return number(measure());
  } catch (const std::runtime_error& error) {
    cudaGetLastError();
    check(cudaDeviceSynchronize(), error.what());  // an error that stays ends the program
    return "\"" + std::string(error.what()) + "\"";
  }
}

int attribute(cudaDeviceAttr name) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, name, 0), "cudaDeviceGetAttribute");
  return value;
}
int multiprocessors() { return attribute(cudaDevAttrMultiProcessorCount); }

struct Grid {
  int blocks, threads, shared_bytes, cluster;
};

template <typename... Parameters>
cudaLaunchConfig_t configure(void (*kernel)(Parameters...), const Grid& grid, cudaLaunchAttribute& cluster) {
  const void* const pointer = reinterpret_cast<const void*>(kernel);
  check(cudaFuncSetAttribute(pointer, cudaFuncAttributeMaxDynamicSharedMemorySize, grid.shared_bytes), "shared memory");
  if (grid.cluster > 8) {
    check(cudaFuncSetAttribute(pointer, cudaFuncAttributeNonPortableClusterSizeAllowed, 1), "large clusters");
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(grid.blocks);
  config.blockDim = dim3(grid.threads);
  config.dynamicSmemBytes = grid.shared_bytes;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = grid.cluster;
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  config.attrs = &cluster;
  config.numAttrs = grid.cluster > 1 ? 1 : 0;
  return config;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Cycles of a round: median over launches of the slowest block. `prepare` is called before each launch.
template <typename... Parameters, typename... Arguments>
double cycles_of(const std::function<void()>& prepare, void (*kernel)(long long*, Parameters...), const Grid& grid,
                 Arguments... arguments) {
  cudaLaunchAttribute cluster;
  const cudaLaunchConfig_t config = configure(kernel, grid, cluster);
  const DeviceArray<long long> cycles(grid.blocks);
  std::vector<double> rounds;
  for (int launch = 0; launch <= kLaunches; ++launch) {
    cycles.clear();  // for blocks that write none
    prepare();
    check(cudaLaunchKernelEx(&config, kernel, cycles.data(), static_cast<Parameters>(arguments)...), "launch");
    const std::vector<long long> found = cycles.values();
    if (*std::min_element(found.begin(), found.end()) < 0) throw std::runtime_error("a wait took too long");
    if (launch > 0) rounds.push_back(static_cast<double>(*std::max_element(found.begin(), found.end())) / kRounds);
  }
  return median(rounds);
}
template <typename... Parameters, typename... Arguments>
double cycles_of(void (*kernel)(long long*, Parameters...), const Grid& grid, Arguments... arguments) {
  return cycles_of([] {}, kernel, grid, arguments...);
}

// ---- The measurements

std::string measure_clock() {
  const DeviceArray<long long> clock(2);
  for (int i = 0; i < 2; ++i) clock_kernel<<<1, 1>>>(clock.data());
  const std::vector<long long> found = clock.values();
  return Object()
      .add("ghz", number(static_cast<double>(found[0]) / found[1]))
      .add("multiprocessors", number(multiprocessors()))
      .text();
}

std::string measure_block_barrier() {
  return Object()
      .add("cycles", attempt([] { return cycles_of(block_barrier_kernel, {multiprocessors(), kThreads, 0, 1}); }))
      .text();
}

double resident_clusters(int blocks) {
  const Grid grid{blocks, kThreads, kOneBlockBytes, blocks};
  cudaLaunchAttribute cluster;
  const cudaLaunchConfig_t config = configure(cluster_barrier_kernel, grid, cluster);
  int count = 0;
  check(cudaOccupancyMaxActiveClusters(&count, reinterpret_cast<const void*>(cluster_barrier_kernel), &config),
        "cudaOccupancyMaxActiveClusters");
  return count;
}

template <int kBlocks>
std::string measure_cluster() {
  int resident = 0;
  Object found;
  found.add("blocks", number(kBlocks)).add("resident", attempt([&] {
                                             return resident = static_cast<int>(resident_clusters(kBlocks));
                                           }));
  if (resident == 0) return found.text();
  const int all = resident * kBlocks;
  found
      .add("barrier_cycles",
           attempt([&] { return cycles_of(cluster_barrier_kernel, {all, kThreads, kOneBlockBytes, kBlocks}); }))
      .add("dsmem_one_way_cycles",
           attempt([&] { return cycles_of(dsmem_latency_kernel, {kBlocks, kWarpSize, 1024, kBlocks}, kBlocks) / 2; }));
  // By bytes that a block sends to each: of one cluster, of as many as there is room for.
  Object alone, full;
  for (const int bytes : {256, 512, 1024, 2048, 4096}) {
    const int shared = std::max(kOneBlockBytes, 128 + 2 * kBlocks * bytes);
    const auto measure = [&](int blocks) {
      return attempt(
          [&] { return cycles_of(dsmem_exchange_kernel, {blocks, kThreads, shared, kBlocks}, kBlocks, bytes); });
    };
    alone.add(std::to_string(bytes), measure(kBlocks));
    full.add(std::to_string(bytes), measure(all));
  }
  return found.add("exchange_cycles", full.text()).add("exchange_alone_cycles", alone.text()).text();
}

std::string measure_tagged() {
  const DeviceArray<unsigned long long> slots(32);
  const Grid grid{multiprocessors(), kWarpSize, kOneBlockBytes, 1};
  // Each launch begins its tags anew.
  return Object()
      .add("one_way_cycles",
           attempt([&] { return cycles_of([&] { slots.clear(); }, tagged_latency_kernel, grid, slots.data()) / 2; }))
      .text();
}

std::string measure_flags() {
  const int blocks = multiprocessors();
  const DeviceArray<uint32_t> flags(blocks * 8), words(2 * blocks * 4);
  const Grid grid{blocks, kThreads, kOneBlockBytes, 1};
  return Object()
      .add("exchange_cycles",
           attempt([&] { return cycles_of([&] { flags.clear(); }, flags_kernel, grid, flags.data(), words.data()); }))
      .text();
}

// Bytes a cycle and multiprocessor, from so many MB of memory, which are read again and again.
std::string measure_copies() {
  Object found;
  for (const int64_t megabytes : {1, 8, 16, 32, 48, 64, 256}) {
    found.add(std::to_string(megabytes), attempt([&] {
                const DeviceArray<char> from(megabytes << 20);
                from.clear();
                const Grid grid{multiprocessors(), kThreads, kOneBlockBytes, 1};
                const double cycles = kRounds * cycles_of(copy_rate_kernel, grid, from.data(), megabytes << 20);
                return static_cast<double>(kCopies) * kThreads * 16 / cycles;
              }));
  }
  return Object().add("bytes_a_cycle", found.text()).text();
}

template <typename Operand, int kColumns, bool kSharedWeights>
std::string multiply_adds_a_cycle(int values_of_a_tile) {
  return attempt([&] {
    const DeviceArray<float> sink(multiprocessors() * kThreads);
    const Grid grid{multiprocessors(), kThreads, kOneBlockBytes, 1};
    const double cycles = cycles_of(mma_rate_kernel<Operand, kColumns, kSharedWeights>, grid, sink.data());
    return kWarps * 3.0 * kTiles * kColumns * 16 * 8 * values_of_a_tile / cycles;
  });
}

// By dtype and rows, with the weights in registers or in shared memory.
std::string measure_multiply_adds() {
  return Object()
      .add("bf16, 8 rows", multiply_adds_a_cycle<bfloat16, 1, false>(16))
      .add("bf16, 16 rows", multiply_adds_a_cycle<bfloat16, 2, false>(16))
      .add("bf16, 8 rows, shared", multiply_adds_a_cycle<bfloat16, 1, true>(16))
      .add("bf16, 16 rows, shared", multiply_adds_a_cycle<bfloat16, 2, true>(16))
      .add("tf32, 8 rows", multiply_adds_a_cycle<tf32, 1, false>(8))
      .add("tf32, 16 rows", multiply_adds_a_cycle<tf32, 2, false>(8))
      .text();
}

// Microseconds of an empty launch: in a stream, the host's time included, and inside a graph.
std::string measure_launches() {
  constexpr int kCount = 1000;
  cudaStream_t stream;
  check(cudaStreamCreate(&stream), "cudaStreamCreate");
  const auto microseconds = [&](const auto& work) {
    work();
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    const auto start = std::chrono::steady_clock::now();
    work();
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count() / kCount;
  };
  const auto launches = [&] {
    for (int i = 0; i < kCount; ++i) empty_kernel<<<1, kWarpSize, 0, stream>>>();
  };
  const double in_stream = microseconds(launches);
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
  launches();
  check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
  const double in_graph = microseconds([&] { check(cudaGraphLaunch(executable, stream), "cudaGraphLaunch"); });
  return Object().add("us", number(in_stream)).add("us_in_graph", number(in_graph)).text();
}

const std::pair<const char*, std::string (*)()> kMeasurements[] = {
    {"clock", measure_clock},
    {"block_barrier", measure_block_barrier},
    {"cluster_2", measure_cluster<2>},
    {"cluster_4", measure_cluster<4>},
    {"cluster_8", measure_cluster<8>},
    {"cluster_12", measure_cluster<12>},
    {"cluster_16", measure_cluster<16>},
    {"tagged", measure_tagged},
    {"flags", measure_flags},
    {"copies", measure_copies},
    {"multiply_adds", measure_multiply_adds},
    {"launches", measure_launches},
};

int run(const std::string& name) {
  for (const auto& [known, measure] : kMeasurements) {
    if (name.empty()) std::printf("%s\n", known);
    if (name != known) continue;
    try {
      std::printf("%s\n", measure().c_str());
      return 0;
    } catch (const std::runtime_error& error) {
      std::fprintf(stderr, "%s: %s\n", known, error.what());
      return 1;
    }
  }
  return name.empty() ? 0 : 2;
}

}  // namespace
}  // namespace device
}  // namespace gru_ext

int main(int count, char** words) { return gru_ext::device::run(count > 1 ? words[1] : ""); }
