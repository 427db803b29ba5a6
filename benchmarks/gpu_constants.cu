// Measures what the time model of docs/kernels.md is made of, with the primitives that the kernels use: one JSON
// object, on standard output. benchmarks/gpu_check.py builds and runs it; it needs clusters, so a GPU from sm_90 on.
//
// Cycles are those of the multiprocessors' clock, medians over launches; the first launch of each is not counted. What
// is measured once, between two blocks, runs alone on the GPU; rates run on every multiprocessor at a time.
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "../csrc/cuda/primitives.cuh"

namespace gru_ext {
namespace device {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize, kRounds = 500, kLaunches = 5;
constexpr int kOneBlockBytes = 120 << 10;  // of shared memory: no second block fits on the multiprocessor

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
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
      in_time = mbarrier_wait(mbarrier, i % 2);
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
    in_time = mbarrier_wait(mbarriers + buffer, round / 2 % 2);
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
  const uint64_t begin = nanoseconds();
  const long long start = clock64();
  for (unsigned long long tag = 1; tag <= kRounds && in_time; ++tag) {
    if (block == 0) *theirs = tag << 32;
    while (*mine >> 32 != tag && in_time) in_time = nanoseconds() - begin < kWaitLimit;
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
      in_time = in_time && wait_for_flag(flags + other * 8, round);
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

int attribute(cudaDeviceAttr name) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, name, 0), "cudaDeviceGetAttribute");
  return value;
}

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

// Cycles of a round: median over launches of the slowest of the blocks that counted.
template <typename... Parameters, typename... Arguments>
double cycles_of(void (*kernel)(long long*, Parameters...), const Grid& grid, Arguments... arguments) {
  cudaLaunchAttribute cluster;
  const cudaLaunchConfig_t config = configure(kernel, grid, cluster);
  long long* cycles = nullptr;
  check(cudaMallocManaged(&cycles, grid.blocks * sizeof(long long)), "cudaMallocManaged");
  std::vector<double> rounds;
  for (int launch = 0; launch <= kLaunches; ++launch) {
    std::fill_n(cycles, grid.blocks, 0);
    check(cudaLaunchKernelEx(&config, kernel, cycles, static_cast<Parameters>(arguments)...), "launch");
    check(cudaDeviceSynchronize(), "kernel");
    if (*std::min_element(cycles, cycles + grid.blocks) < 0) {
      std::fprintf(stderr, "a wait took too long\n");
      std::exit(1);
    }
    const double slowest = static_cast<double>(*std::max_element(cycles, cycles + grid.blocks));
    if (launch > 0) rounds.push_back(slowest / kRounds);
  }
  check(cudaFree(cycles), "cudaFree");
  return median(rounds);
}

int resident_clusters(int blocks) {
  const Grid grid{blocks, kThreads, kOneBlockBytes, blocks};
  cudaLaunchAttribute cluster;
  const cudaLaunchConfig_t config = configure(cluster_barrier_kernel, grid, cluster);
  int count = 0;
  check(cudaOccupancyMaxActiveClusters(&count, reinterpret_cast<const void*>(cluster_barrier_kernel), &config),
        "cudaOccupancyMaxActiveClusters");
  return count;
}

// Microseconds of an empty launch: in a stream, the host's time included, and inside a graph.
void launch_costs(double& in_stream, double& in_graph) {
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
  in_stream = microseconds(launches);
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
  launches();
  check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
  in_graph = microseconds([&] { check(cudaGraphLaunch(executable, stream), "cudaGraphLaunch"); });
}

template <typename Operand, int kColumns, bool kSharedWeights>
double multiply_adds_a_cycle(int values_of_a_tile) {
  const int multiprocessors = attribute(cudaDevAttrMultiProcessorCount);
  float* sink = nullptr;
  check(cudaMalloc(&sink, multiprocessors * kThreads * sizeof(float)), "cudaMalloc");
  const Grid grid{multiprocessors, kThreads, kOneBlockBytes, 1};
  const double cycles = cycles_of(mma_rate_kernel<Operand, kColumns, kSharedWeights>, grid, sink);
  check(cudaFree(sink), "cudaFree");
  return kWarps * 3.0 * kTiles * kColumns * 16 * 8 * values_of_a_tile / cycles;
}

// Bytes a cycle and multiprocessor, from so many bytes of memory, which are read again and again.
double copied_a_cycle(int64_t bytes) {
  char* from = nullptr;
  check(cudaMalloc(&from, bytes), "cudaMalloc");
  check(cudaMemset(from, 0, bytes), "cudaMemset");
  const Grid grid{attribute(cudaDevAttrMultiProcessorCount), kThreads, kOneBlockBytes, 1};
  const double cycles_a_round = cycles_of(copy_rate_kernel, grid, static_cast<const char*>(from), bytes);
  check(cudaFree(from), "cudaFree");
  return static_cast<double>(kCopies) * kThreads * 16 / (cycles_a_round * kRounds);
}

void measure() {
  const int multiprocessors = attribute(cudaDevAttrMultiProcessorCount);
  long long* clock = nullptr;
  check(cudaMallocManaged(&clock, 2 * sizeof(long long)), "cudaMallocManaged");
  for (int i = 0; i < 2; ++i) {
    clock_kernel<<<1, 1>>>(clock);
    check(cudaDeviceSynchronize(), "clock_kernel");
  }
  std::printf("{\"clock_ghz\": %.3f, \"multiprocessors\": %d", static_cast<double>(clock[0]) / clock[1],
              multiprocessors);
  std::printf(", \"block_barrier_cycles\": %.1f", cycles_of(block_barrier_kernel, {multiprocessors, kThreads, 0, 1}));

  std::printf(", \"clusters\": [");
  const char* comma = "";
  for (const int blocks : {2, 4, 8, 12, 16}) {
    const int resident = resident_clusters(blocks);
    std::printf("%s{\"blocks\": %d, \"resident\": %d", comma, blocks, resident);
    comma = ", ";
    if (resident > 0) {
      const int all = resident * blocks;
      std::printf(", \"barrier_cycles\": %.1f",
                  cycles_of(cluster_barrier_kernel, {all, kThreads, kOneBlockBytes, blocks}));
      std::printf(", \"dsmem_one_way_cycles\": %.1f",
                  cycles_of(dsmem_latency_kernel, {blocks, kWarpSize, 1024, blocks}, blocks) / 2);
      std::printf(", \"exchange_cycles\": {");
      const char* inner = "";
      for (const int bytes : {256, 512, 1024, 2048, 4096}) {  // that a block sends to each
        const int shared = std::max(kOneBlockBytes, 128 + 2 * blocks * bytes);
        const double alone = cycles_of(dsmem_exchange_kernel, {blocks, kThreads, shared, blocks}, blocks, bytes);
        const double full = cycles_of(dsmem_exchange_kernel, {all, kThreads, shared, blocks}, blocks, bytes);
        std::printf("%s\"%d\": [%.1f, %.1f]", inner, bytes, alone, full);
        inner = ", ";
      }
      std::printf("}");
    }
    std::printf("}");
  }

  unsigned long long* slots = nullptr;
  check(cudaMalloc(&slots, 32 * sizeof(unsigned long long)), "cudaMalloc");
  std::vector<double> one_way;
  for (int launch = 0; launch < 3; ++launch) {
    // Each launch begins its tags anew.
    cudaLaunchAttribute cluster;
    const Grid grid{multiprocessors, kWarpSize, kOneBlockBytes, 1};
    const cudaLaunchConfig_t config = configure(tagged_latency_kernel, grid, cluster);
    check(cudaMemset(slots, 0, 32 * sizeof(unsigned long long)), "cudaMemset");
    std::vector<long long> cycles(multiprocessors);
    long long* on_device = nullptr;
    check(cudaMalloc(&on_device, multiprocessors * sizeof(long long)), "cudaMalloc");
    check(
        cudaLaunchKernelEx(&config, tagged_latency_kernel, on_device, static_cast<volatile unsigned long long*>(slots)),
        "tagged_latency_kernel");
    check(cudaMemcpy(cycles.data(), on_device, cycles.size() * sizeof(long long), cudaMemcpyDeviceToHost), "copy");
    check(cudaFree(on_device), "cudaFree");
    if (cycles[0] < 0) check(cudaErrorLaunchTimeout, "tagged_latency_kernel");
    one_way.push_back(static_cast<double>(cycles[0]) / kRounds / 2);
  }
  std::printf("], \"tagged_one_way_cycles\": %.1f", median(one_way));

  const size_t flag_bytes = multiprocessors * 32, word_bytes = 2 * multiprocessors * 16;
  char* exchanged = nullptr;
  check(cudaMalloc(&exchanged, flag_bytes + word_bytes), "cudaMalloc");
  std::vector<double> exchanges;
  for (int launch = 0; launch < 3; ++launch) {
    cudaLaunchAttribute cluster;
    const Grid grid{multiprocessors, kThreads, kOneBlockBytes, 1};
    const cudaLaunchConfig_t config = configure(flags_kernel, grid, cluster);
    check(cudaMemset(exchanged, 0, flag_bytes), "cudaMemset");
    std::vector<long long> cycles(multiprocessors);
    long long* on_device = nullptr;
    check(cudaMalloc(&on_device, multiprocessors * sizeof(long long)), "cudaMalloc");
    check(cudaLaunchKernelEx(&config, flags_kernel, on_device, reinterpret_cast<uint32_t*>(exchanged),
                             reinterpret_cast<uint32_t*>(exchanged + flag_bytes)),
          "flags_kernel");
    check(cudaMemcpy(cycles.data(), on_device, cycles.size() * sizeof(long long), cudaMemcpyDeviceToHost), "copy");
    check(cudaFree(on_device), "cudaFree");
    if (*std::min_element(cycles.begin(), cycles.end()) < 0) check(cudaErrorLaunchTimeout, "flags_kernel");
    exchanges.push_back(static_cast<double>(*std::max_element(cycles.begin(), cycles.end())) / kRounds);
  }
  check(cudaFree(exchanged), "cudaFree");
  std::printf(", \"exchange_by_flags_cycles\": %.1f", median(exchanges));

  std::printf(", \"bytes_copied_a_cycle\": {");
  for (const int64_t megabytes : {1, 8, 16, 32, 48, 64, 256}) {
    std::printf("%s\"%d MB\": %.1f", megabytes > 1 ? ", " : "", static_cast<int>(megabytes),
                copied_a_cycle(megabytes << 20));
  }
  std::printf("}");

  std::printf(", \"multiply_adds_a_cycle\": {\"bf16, 8 rows\": %.0f, \"bf16, 16 rows\": %.0f",
              multiply_adds_a_cycle<bfloat16, 1, false>(16), multiply_adds_a_cycle<bfloat16, 2, false>(16));
  std::printf(", \"bf16, 8 rows, weights in shared memory\": %.0f, \"bf16, 16 rows, weights in shared memory\": %.0f",
              multiply_adds_a_cycle<bfloat16, 1, true>(16), multiply_adds_a_cycle<bfloat16, 2, true>(16));
  std::printf(", \"tf32, 8 rows\": %.0f, \"tf32, 16 rows\": %.0f}", multiply_adds_a_cycle<tf32, 1, false>(8),
              multiply_adds_a_cycle<tf32, 2, false>(8));

  double in_stream = 0, in_graph = 0;
  launch_costs(in_stream, in_graph);
  std::printf(", \"launch_us\": %.2f, \"launch_in_graph_us\": %.2f}\n", in_stream, in_graph);
}

}  // namespace
}  // namespace device
}  // namespace gru_ext

int main() { gru_ext::device::measure(); }
