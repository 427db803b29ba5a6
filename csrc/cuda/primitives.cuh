// Everything a kernel may ask of the machine. Kernels are written against this file alone: compiled by nvcc they run on
// a GPU, compiled by a host compiler with the back end in tests/emulator/emulator.h they run on a CPU, unchanged.
//
// Here is the CUDA back end; the host back end has the same functions with the same meaning. PTX instructions are cited
// by name from NVIDIA's "Parallel Thread Execution ISA". Blocks and clusters are one-dimensional.
#pragma once

#include <cstdint>

#include "cell/acc_type.h"
#include "cuda/wait_clock.h"

namespace gru_ext {
namespace device {

using gru_ext::acc_type;

// Storage types.
struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

// Words that are loaded and stored at once.
struct alignas(8) u32x2 {
  uint32_t x, y;
};
struct alignas(16) u32x4 {
  uint32_t x, y, z, w;
};

constexpr int kWarpSize = 32;

// Float32 values of which the tensor core uses the upper 19 bits: the operand type of an `mma` in TF32.
struct tf32 {
  float value;
};

}  // namespace device
}  // namespace gru_ext

#if !defined(__CUDACC__)
#include "emulator.h"
#else

// A kernel: GRU_KERNEL(threads of a block, blocks of a multiprocessor) name(const Parameters p) { ... }
#define GRU_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
// A function that only kernels call.
#define GRU_DEVICE __device__ __forceinline__
// Before a loop: its trip count is a constant, and arrays indexed by its counter stay in registers.
#define GRU_UNROLL _Pragma("unroll")
#define GRU_NO_UNROLL _Pragma("unroll 1")

// `right`; where tests/emulator plants the fault of this name, to prove that it would be found, `faulty`.
#define GRU_FAULT(name, right, faulty) right

namespace gru_ext {
namespace device {

// ---- Indices

GRU_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
GRU_DEVICE int block_index() { return static_cast<int>(blockIdx.x); }
// The same, asked for again: kept for the end of a kernel, what follows from them would take registers all the time.
GRU_DEVICE int thread_index_again() {
  int index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
}
GRU_DEVICE int block_index_again() {
  int index;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(index));
  return index;
}
GRU_DEVICE int block_size() { return static_cast<int>(blockDim.x); }  // threads of a block
GRU_DEVICE int block_count() { return static_cast<int>(gridDim.x); }  // blocks of the grid

// Tells the emulator, for its reports, which step of a sequence this thread has come to; nothing on a GPU.
GRU_DEVICE void at_step(int) {}

// ---- Memory
// Every address is aligned to the size of T, which is 2, 4, 8 or 16 bytes.

template <typename T>
GRU_DEVICE T load_global(const T* p) {
  return *p;
}
template <typename T>
GRU_DEVICE void store_global(T* p, T value) {
  *p = value;
}

// fence.acq_rel.gpu: copies that this thread begins after it see what it has stored to global memory before.
GRU_DEVICE void global_fence() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }

// ld.global.nc.L1::no_allocate: 16 bytes that the kernel does not write and no other thread reads, past the L1 cache.
GRU_DEVICE u32x4 load_once(const u32x4* p) {
  u32x4 v;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(p));
  return v;
}

// The block's dynamic shared memory, aligned to 128 bytes. Its content is undefined at first.
GRU_DEVICE char* shared_memory() {
  extern __shared__ __align__(128) char gru_ext_shared_memory[];
  return gru_ext_shared_memory;
}
template <typename T>
GRU_DEVICE T load_shared(const T* p) {
  return *p;
}
template <typename T>
GRU_DEVICE void store_shared(T* p, T value) {
  *p = value;
}
// The 32-bit address within the block's shared memory that PTX instructions take.
GRU_DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// Whether there are cp.async, ldmatrix and the mma below: sm_80 and later. Persistent kernels are made of them.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
constexpr bool kHasAsyncCopies = true;
#else
constexpr bool kHasAsyncCopies = false;
#endif

// cp.async.cg: copies 16 bytes from global to shared memory, past the registers; zeros, and no load, unless `exists`.
GRU_DEVICE void copy_async(void* shared, const void* global, bool exists) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(exists ? 16 : 0)
               : "memory");
}
// cp.async.wait_all: the copies that this thread began are done. Other threads need a barrier besides.
GRU_DEVICE void copy_async_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }
// cp.async.commit_group: the copies that this thread began since it last called this are a group, which may be empty.
GRU_DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// cp.async.wait_group: the groups of this thread are done, all but the last N.
template <int N>
GRU_DEVICE void copy_async_wait_but() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// ---- Barriers within a block
// A thread that passes one sees what all that arrived had written to shared and global memory before they did.

// bar.sync 0: all threads of the block.
GRU_DEVICE void block_barrier() { __syncthreads(); }
// barrier.red.or.pred 0: the same, and whether `vote` was true of any of them.
GRU_DEVICE bool block_barrier_or(bool vote) { return __syncthreads_or(vote) != 0; }
// barrier.red.or.pred id: the same for `threads` threads, whole warps, that name the same id of 1 to 15.
GRU_DEVICE bool named_barrier_or(int id, int threads, bool vote) {
  uint32_t any;
  asm volatile(
      "{\n.reg .pred in, out;\nsetp.ne.u32 in, %3, 0;\nbarrier.cta.red.or.pred.aligned out, %1, %2, in;\n"
      "selp.u32 %0, 1, 0, out;\n}"
      : "=r"(any)
      : "r"(id), "r"(threads), "r"(static_cast<uint32_t>(vote))
      : "memory");
  return any != 0;
}
// bar.sync id: likewise, without the vote.
GRU_DEVICE void named_barrier(int id, int threads) {
  asm volatile("barrier.cta.sync.aligned %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
// bar.warp.sync: the 32 threads of a warp.
GRU_DEVICE void warp_barrier() { __syncwarp(); }
// The same, then vote.sync.any.
GRU_DEVICE bool warp_barrier_or(bool vote) {
  __syncwarp();
  return __any_sync(0xffffffffu, vote) != 0;
}

// ---- Exchange within a warp: all 32 threads call these together

// shfl.sync.idx: the value of thread `lane` of the warp.
GRU_DEVICE uint32_t shuffle(uint32_t value, int lane) { return __shfl_sync(0xffffffffu, value, lane); }
// shfl.sync.bfly: the value of the thread whose lane is this one's with the bits of `mask` flipped.
GRU_DEVICE float shuffle_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
GRU_DEVICE double shuffle_xor(double value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }

// ---- Tensor cores
// A tile of an operand is 32 bytes wide: 16 values of 16 bits or 8 of 32 bits, that is 8 words. With g = lane / 4 and
// c = lane % 4, a thread holds of
//   A (16 rows, 8 words)        a[0] = A[g][c], a[1] = A[g + 8][c], a[2] = A[g][c + 4], a[3] = A[g + 8][c + 4]
//   B (8 columns, 8 words)      b0 = B[g][c], b1 = B[g][c + 4]                     a column's words are consecutive
//   D (16 rows, 8 columns)      d[0] = D[g][2c], d[1] = D[g][2c + 1], d[2] = D[g + 8][2c], d[3] = D[g + 8][2c + 1]

// mma.sync: D += A B, sums in float32.
template <typename T>
GRU_DEVICE void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
#define GRU_MMA(T, shape, type)                                                             \
  template <>                                                                               \
  GRU_DEVICE void mma<T>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { \
    asm volatile("mma.sync.aligned." shape ".row.col.f32." type "." type                    \
                 ".f32 {%0, %1, %2, %3}, "                                                  \
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                            \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                           \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));           \
  }
GRU_MMA(bfloat16, "m16n8k16", "bf16")
GRU_MMA(float16, "m16n8k16", "f16")
GRU_MMA(tf32, "m16n8k8", "tf32")
#undef GRU_MMA

// ldmatrix.x4: four matrices of 8 rows of 16 bytes in shared memory; thread i gives the address of row i % 8 of matrix
// i / 8 and receives word i % 4 of row i / 4 of each. So two matrices side by side are the B of one mma.
GRU_DEVICE void ldmatrix_x4(uint32_t (&words)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(shared_address(row))
               : "memory");
}

// ldmatrix.x4.trans: each matrix is transposed on the way: thread i receives the i % 4-th pair of 16-bit values of
// column i / 4, one from each of two rows.
GRU_DEVICE void ldmatrix_x4_transposed(uint32_t (&words)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(shared_address(row))
               : "memory");
}

// ---- Packets: exchange between blocks of a grid through global memory, without barriers and fences
// A packet is 8 or 16 bytes that are written and read at once: 4 or, in a triple, 12 of payload, and a tag by which the
// reader knows what it has. All blocks must run at the same time. Nothing but the payload is handed over.

GRU_DEVICE uint64_t nanoseconds() {
  uint64_t now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}
// By the clock of wait_clock.h.
GRU_DEVICE uint32_t wait_ticks() { return static_cast<uint32_t>(nanoseconds() / kWaitTick); }

// st.relaxed.gpu.b64
GRU_DEVICE void store_packet(uint64_t* packet, uint32_t payload, uint32_t tag) {
  asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(packet), "l"(static_cast<uint64_t>(tag) << 32 | payload)
               : "memory");
}
// ld.relaxed.gpu.v2.b64: two packets, payload and tag of one, then of the other.
GRU_DEVICE u32x4 load_packets(const uint64_t* packets) {
  uint64_t first, second;
  asm volatile("ld.relaxed.gpu.global.v2.b64 {%0, %1}, [%2];" : "=l"(first), "=l"(second) : "l"(packets) : "memory");
  return {static_cast<uint32_t>(first), static_cast<uint32_t>(first >> 32), static_cast<uint32_t>(second),
          static_cast<uint32_t>(second >> 32)};
}
// st.relaxed.gpu.b128: one access, where a vector of four words would be four in no order.
GRU_DEVICE void store_triple(u32x4* packet, uint32_t first, uint32_t second, uint32_t third, uint32_t tag) {
  const uint64_t low = static_cast<uint64_t>(second) << 32 | first, high = static_cast<uint64_t>(tag) << 32 | third;
  asm volatile("{\n.reg .b128 v;\nmov.b128 v, {%1, %2};\nst.relaxed.gpu.global.b128 [%0], v;\n}" ::"l"(packet),
               "l"(low), "l"(high)
               : "memory");
}
// ld.relaxed.gpu.b128
GRU_DEVICE u32x4 load_triple(const u32x4* packet) {
  uint64_t low, high;
  asm volatile("{\n.reg .b128 v;\nld.relaxed.gpu.global.b128 v, [%2];\nmov.b128 {%0, %1}, v;\n}"
               : "=l"(low), "=l"(high)
               : "l"(packet)
               : "memory");
  return {static_cast<uint32_t>(low), static_cast<uint32_t>(low >> 32), static_cast<uint32_t>(high),
          static_cast<uint32_t>(high >> 32)};
}

// Loads values, each by `load` from its place, again and again until each `has_come`; false if after `limit`
// ticks they have not.
template <int N, typename Packet, typename Load, typename HasCome>
GRU_DEVICE bool load_until(u32x4 (&values)[N], const Packet* const (&packets)[N], const Load& load, uint32_t limit,
                           const HasCome& has_come) {
  GRU_UNROLL
  for (int i = 0; i < N; ++i) values[i] = load(packets[i]);
  uint32_t start = 0;
  bool in_time = true;
  GRU_UNROLL
  for (int i = 0; i < N; ++i) {
    while (in_time && !has_come(values[i])) {
      values[i] = load(packets[i]);
      const uint32_t now = wait_ticks();
      if (start == 0) start = now;
      in_time = now - start <= limit;
    }
  }
  return in_time;
}
// Waits for N times two packets of this tag.
template <int N>
GRU_DEVICE bool wait_for_packets(u32x4 (&values)[N], const uint64_t* const (&packets)[N], uint32_t tag,
                                 uint32_t limit) {
  return load_until(
      values, packets, [](const uint64_t* p) { return load_packets(p); }, limit,
      [&](const u32x4& value) { return value.y == tag && value.w == tag; });
}
// Waits for N triples of this tag, which is the last word of a value.
template <int N>
GRU_DEVICE bool wait_for_triples(u32x4 (&values)[N], const u32x4* const (&packets)[N], uint32_t tag, uint32_t limit) {
  return load_until(
      values, packets, [](const u32x4* p) { return load_triple(p); }, limit,
      [&](const u32x4& value) { return value.w == tag; });
}

// ---- Flags: exchange between blocks of a grid through global memory, of more than packets should carry
// A block stores words, meets at a block_barrier, and one of its threads then raises the block's flag. A thread that
// has waited for the flag may copy the words, and so may those that meet it at a barrier after that. All blocks must
// run at the same time. The L1 cache, which does not see what other blocks store, is passed.

GRU_DEVICE void store_exchanged(uint32_t* p, uint32_t word) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(word) : "memory");
}
// As copy_async, from what other blocks have stored.
GRU_DEVICE void copy_exchanged_async(void* shared, const void* exchanged) { copy_async(shared, exchanged, true); }
// st.release.gpu
GRU_DEVICE void raise_flag(uint32_t* flag, uint32_t value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}
// ld.acquire.gpu, until the flag has this value or a higher one; false if it has not after `limit` ticks.
GRU_DEVICE bool wait_for_flag(const uint32_t* flag, uint32_t value, uint32_t limit) {
  uint32_t start = 0;
  while (true) {
    uint32_t now;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(flag) : "memory");
    if (now >= value) return true;
    const uint32_t time = wait_ticks();
    if (start == 0) start = time;
    if (time - start > limit) return false;
  }
}

// ---- Clusters: blocks that run at the same time and write to each other's shared memory. sm_90 and later.

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
constexpr bool kHasClusters = true;

// %cluster_ctarank: which block of its cluster this is.
GRU_DEVICE int cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}

// barrier.cluster.arrive.release, barrier.cluster.wait.acquire: as block_barrier, for all threads of the cluster.
GRU_DEVICE void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// An mbarrier goes through phases. A phase ends when as many threads as it was made for have arrived and as many bytes
// as they expected have come by asynchronous stores; bytes may come before they are expected.

// mbarrier.init: `arrivals` threads a phase.
GRU_DEVICE void mbarrier_init(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
// fence.mbarrier_init: asynchronous stores of other blocks see the mbarriers that this thread has made, once they are
// past a cluster_barrier.
GRU_DEVICE void mbarrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
// mbarrier.arrive.expect_tx: arrives at the present phase, which now waits for `bytes` more.
GRU_DEVICE void mbarrier_arrive_expect(uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}
// mbarrier.try_wait.parity: whether the phase of this parity (the first is 0) has ended. May suspend the thread until
// it does, for a time that the machine sets. Acquires at the cluster's scope, where st.async releases.
GRU_DEVICE bool mbarrier_try_wait(uint64_t* barrier, int parity) {
  uint32_t ended;
  asm volatile(
      "{\n.reg .pred p;\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n}"
      : "=r"(ended)
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
  return ended != 0;
}
// Waits for the phase of this parity; false if it has not ended after `limit` ticks.
GRU_DEVICE bool mbarrier_wait(uint64_t* barrier, int parity, uint32_t limit) {
  if (__builtin_expect(mbarrier_try_wait(barrier, parity), 1)) return true;
  const uint32_t start = wait_ticks();
  do {
    if (mbarrier_try_wait(barrier, parity)) return true;
  } while (wait_ticks() - start < limit);
  return false;
}

// st.async: writes 16 bytes to the shared memory of block `rank` of the cluster, at the place that `p` is in this
// block's, and then tells the mbarrier at the place of `barrier` there. The store begins after all that this thread did
// before, is in no order with what it does later, and is seen by all that have waited for the mbarrier.
GRU_DEVICE void store_async(void* p, uint64_t* barrier, int rank, u32x4 value) {
  uint32_t remote_p, remote_barrier;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote_p) : "r"(shared_address(p)), "r"(rank));
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote_barrier) : "r"(shared_address(barrier)), "r"(rank));
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(remote_p),
      "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w), "r"(remote_barrier)
      : "memory");
}
#else
constexpr bool kHasClusters = false;

GRU_DEVICE int cluster_rank() { return 0; }
GRU_DEVICE void cluster_barrier() { __trap(); }
GRU_DEVICE void mbarrier_init(uint64_t*, int) { __trap(); }
GRU_DEVICE void mbarrier_init_fence() { __trap(); }
GRU_DEVICE void mbarrier_arrive_expect(uint64_t*, int) { __trap(); }
GRU_DEVICE bool mbarrier_wait(uint64_t*, int, uint32_t) { __trap(); }
GRU_DEVICE void store_async(void*, uint64_t*, int, u32x4) { __trap(); }
#endif

// ---- Registers

// x, as if it were another value: what is worked out from it after a loop is worked out there, not before the loop and
// then kept in registers.
GRU_DEVICE int anew(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

// Some value, which takes no instruction: of what is loaded on one path and not used on the other. Were it zero there,
// the register would have to wait for whatever else was loaded into it.
GRU_DEVICE int64_t any_value() {
  int64_t x;
  asm volatile("" : "=l"(x));
  return x;
}

// ---- Bits and conversions

GRU_DEVICE uint32_t float_bits(float x) { return __float_as_uint(x); }
GRU_DEVICE float float_of_bits(uint32_t bits) { return __uint_as_float(bits); }

GRU_DEVICE float to_acc(bfloat16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
GRU_DEVICE float to_acc(float16 x) {  // cvt.f32.f16: exact
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}
GRU_DEVICE float to_acc(float x) { return x; }
GRU_DEVICE double to_acc(double x) { return x; }

// To the nearest, ties to even.
template <typename T>
GRU_DEVICE T from_acc(acc_type<T> x);
template <>
GRU_DEVICE bfloat16 from_acc<bfloat16>(float x) {
  bfloat16 y;
#if __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
#else
  const uint32_t bits = __float_as_uint(x);
  y.bits =
      static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
#endif
  return y;
}
template <>
GRU_DEVICE float16 from_acc<float16>(float x) {
  float16 y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}
template <>
GRU_DEVICE float from_acc<float>(float x) {
  return x;
}
template <>
GRU_DEVICE double from_acc<double>(double x) {
  return x;
}

// The words that operands are made of: two values of 16 bits, the first in the low half, or one of TF32.
template <typename T>
GRU_DEVICE uint32_t pack(float low, float high);
template <>
GRU_DEVICE uint32_t pack<bfloat16>(float low, float high) {  // cvt.rn.bf16x2.f32
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
template <>
GRU_DEVICE uint32_t pack<float16>(float low, float high) {  // cvt.rn.f16x2.f32
  uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
GRU_DEVICE uint32_t tf32_bits(float x) {  // cvt.rna.tf32.f32: to the nearest, ties away from zero
  uint32_t word;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(word) : "f"(x));
  return word;
}

// ---- Math

// ex2.approx.ftz, rcp.approx.ftz: 2^x and 1 / x to 2 and 1 units in the last place; 2^-200 = 0, 1 / infinity = 0.
GRU_DEVICE float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
GRU_DEVICE float reciprocal_approximate(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

GRU_DEVICE float exp(float x) { return ::expf(x); }
GRU_DEVICE double exp(double x) { return ::exp(x); }
GRU_DEVICE float tanh(float x) { return ::tanhf(x); }
GRU_DEVICE double tanh(double x) { return ::tanh(x); }
GRU_DEVICE float square_root(float x) { return ::sqrtf(x); }
GRU_DEVICE double square_root(double x) { return ::sqrt(x); }

}  // namespace device
}  // namespace gru_ext

#endif  // __CUDACC__

namespace gru_ext {
namespace device {

// What is at p, zero where p is null. 16 bits are anew, or the compiler would convert them on the path that loads them,
// right behind the load, and so wait for it before the next load is under way.
template <typename T>
GRU_DEVICE T load_if_any(const T* p) {
  if constexpr (sizeof(T) == 2) {
    return {static_cast<uint16_t>(anew(p != nullptr ? load_global(reinterpret_cast<const uint16_t*>(p)) : 0))};
  } else {
    return p != nullptr ? load_global(p) : T{};
  }
}

// The functions of the cell, for cell.h, in T = float or double, with the accuracy of the math library.
template <typename T>
struct AccurateMath {
  GRU_DEVICE static T sigmoid(T x) { return T(1) / (T(1) + exp(-x)); }
  GRU_DEVICE static T tanh(T x) { return device::tanh(x); }
};

// The same in float, where results are rounded to fewer bits: absolute errors below 5e-7 and 1e-6, and for tanh and
// |x| < 1/2 relative ones below 2e-7.
struct FastMath {
  GRU_DEVICE static float sigmoid(float x) { return reciprocal_approximate(1.0f + exp2_approximate(-kLog2E * x)); }
  GRU_DEVICE static float tanh(float x) {
    const float far = 1.0f - 2.0f * reciprocal_approximate(1.0f + exp2_approximate(2.0f * kLog2E * x));
    // Below 1/2 the difference would cancel. tanh(x) = x + x^3 P(x^2), P minimax with relative error 1.5e-8.
    const float s = x * x;
    const float series = ((0x1.1a7c1p-6f * s - 0x1.b28c78p-5f) * s + 0x1.10e9fcp-3f) * s - 0x1.5554d6p-2f;
    return s < 0.25f ? x + x * (s * series) : far;
  }

 private:
  static constexpr float kLog2E = 1.44269504f;
};

}  // namespace device
}  // namespace gru_ext
