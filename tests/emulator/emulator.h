// Host back end of csrc/cuda/primitives.cuh: every CUDA thread is a fiber, all of them in one thread of the CPU.
// Functions have the meaning that primitives.cuh states; what breaks a rule of the machine ends the launch with a
// Failure that says what, and where. `line` is the place of the call in the kernel's source.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <string>
#include <type_traits>
#include <utility>

#define GRU_KERNEL(threads, blocks) void
#define GRU_DEVICE inline
#define GRU_UNROLL
#define GRU_NO_UNROLL
#define GRU_FAULT(name, right, faulty) \
  (gru_ext::emulator::options.fault == gru_ext::emulator::Fault::name ? (faulty) : (right))

namespace gru_ext {
namespace emulator {

struct Failure : std::exception {
  std::string text;

  explicit Failure(std::string words) : text(std::move(words)) {}
  const char* what() const noexcept override { return text.c_str(); }
};

// The faults that kernels have a place for.
enum class Fault {
#define GRU_NAME_FAULT(name) name,
#include "faults.h"
#undef GRU_NAME_FAULT
};

struct Options {
  uint64_t seed = 1;          // of the schedule, and of the time that asynchronous stores take
  bool races = true;          // whether to look for accesses to shared memory that no barrier orders, and for reads of
                              // shared memory that nothing was written to
  bool time_out = false;      // whether waits that would last forever end in vain, as on a GPU, or the launch fails
  int lost_store = -1;        // the asynchronous store that never arrives, counted from 0
  Fault fault = Fault::none;  // the planted fault, see GRU_FAULT
};
extern Options options;

// The grid of a launch. A cluster is `cluster` consecutive blocks.
struct Shape {
  const char* kernel;
  int blocks, cluster, threads;
  size_t shared_bytes;
};
// Has every thread of the grid call `kernel`, and returns when all have left it.
void launch(const Shape& shape, const std::function<void()>& kernel);

// The global memory of the launches to come: all that kernels may touch.
void name_buffer(const std::string& name, const void* p, size_t bytes, bool writable);
void forget_buffers();

// The fiber that runs.
struct Here {
  int thread, block, threads, blocks, rank;
  char* shared;
};
extern Here* here;

enum class Operand { bfloat16, float16, tf32 };

// Those that `device` has the same.
void at_step(int step);
void global_fence();
void copy_async(void* shared, const void* global, bool exists, int line = __builtin_LINE());
void copy_exchanged_async(void* shared, const void* exchanged, int line = __builtin_LINE());
void copy_async_commit();
uint32_t shuffle(uint32_t value, int lane, int line = __builtin_LINE());
void cluster_barrier(int line = __builtin_LINE());
void mbarrier_init(uint64_t* barrier, int arrivals, int line = __builtin_LINE());
void mbarrier_init_fence();
void mbarrier_arrive_expect(uint64_t* barrier, int bytes, int line = __builtin_LINE());
bool mbarrier_wait(uint64_t* barrier, int parity, uint32_t limit, int line = __builtin_LINE());
void raise_flag(uint32_t* flag, uint32_t value, int line = __builtin_LINE());
bool wait_for_flag(const uint32_t* flag, uint32_t value, uint32_t limit, int line = __builtin_LINE());
void store_async(void* p, uint64_t* barrier, int rank, device::u32x4 value, int line = __builtin_LINE());

void check_global(const void* p, size_t bytes, bool write, int line);
void check_shared(const void* p, size_t bytes, bool write, int line);
void note_store(const void* p);
void copy_async_wait(int groups_left, int line);
bool barrier(int id, int threads, bool vote, int line);
bool warp_barrier(bool vote, int line);
void mma(Operand type, float* d, const uint32_t* a, const uint32_t* b, int line);
void ldmatrix_x4(uint32_t* words, const void* row, bool transposed, int line);
void store_packet(void* packet, const void* value, size_t bytes, int line);
bool wait_for_packet(const void* packet, uint32_t tag, void* value, size_t bytes, uint32_t limit, int line);
void check_exchanged(const void* p, size_t bytes, bool write, int line);

// arithmetic.cpp
uint16_t bfloat16_bits(float x);
uint16_t float16_bits(float x);
float float16_value(uint16_t bits);
// x with an error of two units in the last place, up or down as its bits have it; denormals become zero.
float approximate(float x);
// mma: D += A B over the registers of the 32 threads of a warp, in the layout that primitives.cuh states.
void multiply_tiles(Operand type, float* const (&d)[32], const uint32_t* const (&a)[32],
                    const uint32_t* const (&b)[32]);

}  // namespace emulator

namespace device {

using emulator::at_step, emulator::copy_async, emulator::copy_exchanged_async, emulator::copy_async_commit;
using emulator::cluster_barrier, emulator::global_fence, emulator::raise_flag, emulator::shuffle;
using emulator::mbarrier_arrive_expect, emulator::mbarrier_init, emulator::mbarrier_init_fence, emulator::mbarrier_wait;
using emulator::store_async, emulator::wait_for_flag;

inline int thread_index() { return emulator::here->thread; }
inline int block_index() { return emulator::here->block; }
inline int thread_index_again() { return thread_index(); }
inline int block_index_again() { return block_index(); }
inline int block_size() { return emulator::here->threads; }
inline int block_count() { return emulator::here->blocks; }

template <typename T>
T load_global(const T* p, int line = __builtin_LINE()) {
  emulator::check_global(p, sizeof(T), false, line);
  return *p;
}
template <typename T>
void store_global(T* p, T value, int line = __builtin_LINE()) {
  emulator::check_global(p, sizeof(T), true, line);
  if constexpr (sizeof(T) == 16) emulator::note_store(p);
  *p = value;
}
inline u32x4 load_once(const u32x4* p, int line = __builtin_LINE()) { return load_global(p, line); }
inline char* shared_memory() { return emulator::here->shared; }
template <typename T>
T load_shared(const T* p, int line = __builtin_LINE()) {
  emulator::check_shared(p, sizeof(T), false, line);
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}
template <typename T>
void store_shared(T* p, T value, int line = __builtin_LINE()) {
  emulator::check_shared(p, sizeof(T), true, line);
  std::memcpy(p, &value, sizeof value);
}

inline void copy_async_wait(int line = __builtin_LINE()) { emulator::copy_async_wait(/*groups_left=*/-1, line); }
template <int N>
void copy_async_wait_but(int line = __builtin_LINE()) {
  emulator::copy_async_wait(N, line);
}

inline void block_barrier(int line = __builtin_LINE()) { emulator::barrier(0, emulator::here->threads, false, line); }
inline bool block_barrier_or(bool vote, int line = __builtin_LINE()) {
  return emulator::barrier(0, emulator::here->threads, vote, line);
}
inline bool named_barrier_or(int id, int threads, bool vote, int line = __builtin_LINE()) {
  return emulator::barrier(id, threads, vote, line);
}
inline void named_barrier(int id, int threads, int line = __builtin_LINE()) {
  emulator::barrier(id, threads, false, line);
}
inline void warp_barrier(int line = __builtin_LINE()) { emulator::warp_barrier(false, line); }
inline bool warp_barrier_or(bool vote, int line = __builtin_LINE()) { return emulator::warp_barrier(vote, line); }

inline uint32_t float_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float float_of_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

inline float shuffle_xor(float value, int mask, int line = __builtin_LINE()) {
  return float_of_bits(emulator::shuffle(float_bits(value), (emulator::here->thread ^ mask) % kWarpSize, line));
}

inline double shuffle_xor(double value, int mask, int line = __builtin_LINE()) {
  const int lane = (emulator::here->thread ^ mask) % kWarpSize;
  uint32_t halves[2];
  std::memcpy(halves, &value, sizeof value);
  for (uint32_t& half : halves) half = emulator::shuffle(half, lane, line);
  std::memcpy(&value, halves, sizeof value);
  return value;
}

template <typename T>
void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, int line = __builtin_LINE()) {
  using emulator::Operand;
  constexpr bool is_bfloat16 = std::is_same_v<T, bfloat16>, is_float16 = std::is_same_v<T, float16>;
  static_assert(is_bfloat16 || is_float16 || std::is_same_v<T, tf32>);
  const uint32_t b[2] = {b0, b1};
  emulator::mma(is_bfloat16 ? Operand::bfloat16 : is_float16 ? Operand::float16 : Operand::tf32, d, a, b, line);
}
inline void ldmatrix_x4(uint32_t (&words)[4], const void* row, int line = __builtin_LINE()) {
  emulator::ldmatrix_x4(words, row, false, line);
}
inline void ldmatrix_x4_transposed(uint32_t (&words)[4], const void* row, int line = __builtin_LINE()) {
  emulator::ldmatrix_x4(words, row, true, line);
}

inline void store_packet(uint64_t* packet, uint32_t payload, uint32_t tag, int line = __builtin_LINE()) {
  const uint32_t words[2] = {payload, tag};
  emulator::store_packet(packet, words, sizeof words, line);
}
inline void store_triple(u32x4* packet, uint32_t first, uint32_t second, uint32_t third, uint32_t tag,
                         int line = __builtin_LINE()) {
  const u32x4 words = {first, second, third, tag};
  emulator::store_packet(packet, &words, sizeof words, line);
}
template <int N>
bool wait_for_packets(u32x4 (&values)[N], const uint64_t* const (&packets)[N], uint32_t tag, uint32_t limit,
                      int line = __builtin_LINE()) {
  for (int i = 0; i < N; ++i) {
    if (!emulator::wait_for_packet(packets[i], tag, &values[i].x, 8, limit, line)) return false;
    if (!emulator::wait_for_packet(packets[i] + 1, tag, &values[i].z, 8, limit, line)) return false;
  }
  return true;
}
template <int N>
bool wait_for_triples(u32x4 (&values)[N], const u32x4* const (&packets)[N], uint32_t tag, uint32_t limit,
                      int line = __builtin_LINE()) {
  for (int i = 0; i < N; ++i) {
    if (!emulator::wait_for_packet(packets[i], tag, &values[i], 16, limit, line)) return false;
  }
  return true;
}

inline void store_exchanged(uint32_t* p, uint32_t word, int line = __builtin_LINE()) {
  emulator::check_exchanged(p, sizeof word, true, line);
  *p = word;
}

constexpr bool kHasAsyncCopies = true;
constexpr bool kHasClusters = true;
inline int cluster_rank() { return emulator::here->rank; }

inline int anew(int x) { return x; }
inline int64_t any_value() { return INT64_MIN; }

inline float to_acc(bfloat16 x) { return float_of_bits(static_cast<uint32_t>(x.bits) << 16); }
inline float to_acc(float16 x) { return emulator::float16_value(x.bits); }
inline float to_acc(float x) { return x; }
inline double to_acc(double x) { return x; }

template <typename T>
T from_acc(acc_type<T> x) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    return {emulator::bfloat16_bits(x)};
  } else if constexpr (std::is_same_v<T, float16>) {
    return {emulator::float16_bits(x)};
  } else {
    return x;
  }
}

template <typename T>
uint32_t pack(float low, float high) {
  return from_acc<T>(low).bits | static_cast<uint32_t>(from_acc<T>(high).bits) << 16;
}
inline uint32_t tf32_bits(float x) {
  const uint32_t bits = float_bits(x);
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & ~0x1fffu;
}

using std::exp, std::tanh;
inline float square_root(float x) { return std::sqrt(x); }
inline double square_root(double x) { return std::sqrt(x); }
inline float exp2_approximate(float x) { return emulator::approximate(std::exp2(x)); }
inline float reciprocal_approximate(float x) { return emulator::approximate(1.0f / x); }

}  // namespace device
}  // namespace gru_ext
