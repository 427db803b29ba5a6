// Everything a kernel may ask of the machine. Kernels are written against this file alone: compiled by nvcc they run on
// a GPU, compiled by a host compiler with the back end in tests/emulator/emulator.h they run on a CPU, unchanged.
//
// Here is the CUDA back end; the host back end has the same functions with the same meaning. PTX instructions are cited
// by name from NVIDIA's "Parallel Thread Execution ISA". Blocks and clusters are one-dimensional.
#pragma once

#include <cstdint>

namespace gru_ext {
namespace device {

// Storage types.
struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

// The type in which kernels compute with values of T.
template <typename T>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};
template <typename T>
using acc_type = typename Accumulate<T>::type;

// Words that are loaded and stored at once.
struct alignas(8) u32x2 {
  uint32_t x, y;
};
struct alignas(16) u32x4 {
  uint32_t x, y, z, w;
};

constexpr int kWarpSize = 32;

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

namespace gru_ext {
namespace device {

// ---- Indices

GRU_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
GRU_DEVICE int block_index() { return static_cast<int>(blockIdx.x); }
GRU_DEVICE int block_size() { return static_cast<int>(blockDim.x); }  // threads of a block
GRU_DEVICE int block_count() { return static_cast<int>(gridDim.x); }  // blocks of the grid

// ---- Memory
// Aligned to the size of T, which is 2, 4, 8 or 16 bytes.

template <typename T>
GRU_DEVICE T load_global(const T* p) {
  return *p;
}
template <typename T>
GRU_DEVICE void store_global(T* p, T value) {
  *p = value;
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
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
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

// ---- Math

GRU_DEVICE float exp(float x) { return ::expf(x); }
GRU_DEVICE double exp(double x) { return ::exp(x); }
GRU_DEVICE float tanh(float x) { return ::tanhf(x); }
GRU_DEVICE double tanh(double x) { return ::tanh(x); }

}  // namespace device
}  // namespace gru_ext

#endif  // __CUDACC__

namespace gru_ext {
namespace device {

// The functions of the cell, for cell.h, in T = float or double, with the accuracy of the math library.
template <typename T>
struct AccurateMath {
  GRU_DEVICE static T sigmoid(T x) { return T(1) / (T(1) + exp(-x)); }
  GRU_DEVICE static T tanh(T x) { return device::tanh(x); }
};

}  // namespace device
}  // namespace gru_ext
