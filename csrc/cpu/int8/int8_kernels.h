// The CPU's kernels for weights of int8: one layer and direction, a chunk of time steps at a time, as one thread of
// several runs it. One implementation per instruction set (int8_*.cpp); `int8_kernel` returns the one in use.
//
// Letters: I input, H hidden, G groups of kInt8Units hidden units. The weights are packed as int8.h says.
#pragma once

#include <cstdint>

#include "op/int8.h"

namespace gru_ext {

class StepBarrier;

// A time step of a chunk.
struct Int8Step {
  int64_t row;          // first row of the step within the chunk
  int64_t rows;         // rows of the step: B, or fewer where sequences of a packed batch have ended
  int64_t x_offset;     // elements from the start of x to the step's first row; likewise y_offset
  int64_t y_offset;     //
  int64_t prev_offset;  // elements from the start of y to the state before the step
  int64_t prev_rows;    // rows that have such a state in y; the others begin at this step, from h0
  int64_t last_rows;    // the rows from this one on end with this step: their state is that of h_n
};

// The state is kept in y alone: each step reads the rows of y that the step before wrote.
struct Int8Chunk {
  int64_t I, H;
  const Int8Step* steps;     // in the order of the recurrence
  int64_t step_count;        //
  int64_t first_round;       // rounds of the barrier before this chunk; it takes step_count + 1
  int64_t rows;              // rows of all steps of the chunk
  bool all_rows;             // whether the steps have all of these; else those of a row group
  const float* x;            // its rows are of I consecutive elements
  int64_t x_stride;          // between rows of a step
  const int32_t* weight_ih;  // (G, 1 + ceil(I / 4), 3, 16) packed
  const int32_t* weight_hh;  // (G, 1 + ceil(H / 4), 3, 16) packed
  const float* scale_ih;     // (3H) of the rows of weight_ih
  const float* scale_hh;     // (3H) of the rows of weight_hh
  const float* bias_ih;      // (3H) null without biases
  const float* bias_hh;      // (3H) likewise
  const float* h0;           // (B, H) initial state; null for zero
  float* y;                  // out: the states
  int64_t y_stride;          // between rows of y
  float* h_n;                // (B, H) out: the last state of each row
  uint8_t* x_bytes;          // (rows, x_bytes_stride) scratch: x as int8
  int64_t x_bytes_stride;    // int8_stride(I)
  float* x_scale;            // (rows) scratch: scales of x
  float* input_gates;        // (G, rows, 3, 16) scratch: W x + b_ih, plus b_hh for r and z
  uint8_t* h_bytes;          // (threads, B, h_bytes_stride) scratch: the state before a step as int8
  int64_t h_bytes_stride;    // int8_stride(H)
  float* h_scale;            // (threads, B) scratch: scales of the state
  int64_t B;
};

// Bytes from one row of K int8 to the next: whole vectors.
inline int64_t int8_stride(int64_t K) { return (K + 63) / 64 * 64; }

// One thread's part of a chunk: the groups that `share` gives it.
using Int8Kernel = void (*)(const Int8Chunk& chunk, int thread, int threads, StepBarrier& barrier);

// The kernel of the instruction set in use.
Int8Kernel int8_kernel();

// The kernel of each instruction set, see isa.h. Weak: null where a build leaves their file out.
Int8Kernel int8_kernel_portable();
#if defined(__x86_64__)
__attribute__((weak)) Int8Kernel int8_kernel_avx2();
__attribute__((weak)) Int8Kernel int8_kernel_avx2_vnni();
__attribute__((weak)) Int8Kernel int8_kernel_avx512_vnni();
__attribute__((weak)) Int8Kernel int8_kernel_avx512_amx_portable();
__attribute__((weak)) Int8Kernel int8_kernel_avx512_amx();
#endif

}  // namespace gru_ext
