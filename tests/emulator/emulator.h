// Host back end of csrc/cuda/primitives.cuh: every CUDA thread is a fiber of one thread of the CPU.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>

#define GRU_KERNEL(threads, blocks) void
#define GRU_DEVICE inline
#define GRU_UNROLL
#define GRU_NO_UNROLL

namespace gru_ext {
namespace emulator {

// Where the running fiber stands.
struct Position {
  int thread, block, threads, blocks;
};
Position position();

// A launch of `body`, the call of a kernel, by every thread of the grid.
struct Launch {
  const char* kernel;
  int blocks, cluster, threads;
  size_t shared_bytes;
};
void launch(const Launch& shape, const std::function<void()>& body);

// Fails the launch unless `bytes` at `p` lie in one buffer that the runner has named, may be written if they are, and
// are aligned to their size.
void check_global(const void* p, size_t bytes, bool write, int line);

}  // namespace emulator

namespace device {

inline int thread_index() { return emulator::position().thread; }
inline int block_index() { return emulator::position().block; }
inline int block_size() { return emulator::position().threads; }
inline int block_count() { return emulator::position().blocks; }

template <typename T>
T load_global(const T* p, int line = __builtin_LINE()) {
  emulator::check_global(p, sizeof(T), false, line);
  return *p;
}
template <typename T>
void store_global(T* p, T value, int line = __builtin_LINE()) {
  emulator::check_global(p, sizeof(T), true, line);
  *p = value;
}

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

inline float to_acc(bfloat16 x) { return float_of_bits(static_cast<uint32_t>(x.bits) << 16); }
float to_acc(float16 x);
inline float to_acc(float x) { return x; }
inline double to_acc(double x) { return x; }

template <typename T>
T from_acc(acc_type<T> x);
template <>
inline bfloat16 from_acc<bfloat16>(float x) {
  const uint32_t bits = float_bits(x);
  if (x != x) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
template <>
float16 from_acc<float16>(float x);
template <>
inline float from_acc<float>(float x) {
  return x;
}
template <>
inline double from_acc<double>(double x) {
  return x;
}

inline float exp(float x) { return std::exp(x); }
inline double exp(double x) { return std::exp(x); }
inline float tanh(float x) { return std::tanh(x); }
inline double tanh(double x) { return std::tanh(x); }

}  // namespace device
}  // namespace gru_ext
