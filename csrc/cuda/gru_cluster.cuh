// What the cluster-persistent kernels, forward and backward, have in common.
#pragma once

#include "../cell.h"
#include "../params.h"
#include "primitives.cuh"

namespace gru_ext {
namespace device {

// How the blocks that share out R tell each other of the state.
enum class Exchange {
  none,     // there is one block
  cluster,  // a cluster, by asynchronous stores to shared memory
  packets   // a group of any blocks of the grid, all of which run at the same time, by packets in global memory
};

// The operand type of the tensor core for tensors of T, and how many values a 32-bit word of it holds.
template <typename T>
struct OperandOf {
  using type = T;
};
template <>
struct OperandOf<float> {
  using type = tf32;
};
template <typename T>
constexpr int kValuesPerWord = 4 / static_cast<int>(sizeof(T));

// Two neighbouring hidden units of a row: what a thread of the pointwise part works on.
template <typename T>
struct alignas(2 * sizeof(T)) Pair {
  T first, second;
};

// The operand words of a pair: one of two halves, or two of TF32.
template <typename T>
struct PairWords {
  static constexpr int count = 2 / kValuesPerWord<T>;
  uint32_t word[count];

  GRU_DEVICE static PairWords of(float first, float second) {
    if constexpr (count == 1) {
      return {{pack<T>(first, second)}};
    } else {
      return {{tf32_bits(first), tf32_bits(second)}};
    }
  }
};

// A pair at p, of which the first `count` exist; the others are zero. `paired`: every pair of the tensor is
// aligned to its size and whole.
template <typename T>
GRU_DEVICE Pair<T> load_pair(const T* p, int count, bool paired) {
  Pair<T> pair{};
  if (count <= 0) return pair;
  if (paired) return load_global(reinterpret_cast<const Pair<T>*>(p));
  pair.first = load_global(p);
  if (count > 1) pair.second = load_global(p + 1);
  return pair;
}
template <typename T>
GRU_DEVICE void store_pair(T* p, float first, float second, int count, bool paired) {
  if (count <= 0) return;
  const Pair<T> pair{from_acc<T>(first), from_acc<T>(second)};
  if (paired) {
    store_global(reinterpret_cast<Pair<T>*>(p), pair);
  } else {
    store_global(p, pair.first);
    if (count > 1) store_global(p + 1, pair.second);
  }
}

// Operand words as they were in memory to what the tensor core takes.
template <typename T>
GRU_DEVICE void to_operand(uint32_t (&words)[4]) {
  if constexpr (kValuesPerWord<T> == 1) {
    GRU_UNROLL
    for (int i = 0; i < 4; ++i) words[i] = tf32_bits(float_of_bits(words[i]));
  }
}

// Copies kRows rows of kColumns values to shared memory, 4 words of padding after each, so that ldmatrix meets every
// bank once; all threads of the block call it. `weights` is the first of them in a matrix of H columns, of which `rows`
// and `columns` are left; the others are zero. aligned: every row begins at a multiple of 16 bytes.
template <int kRows, int kColumns, int kThreads, typename T>
GRU_DEVICE void stage_weights(uint32_t* staged, const T* weights, int H, int rows, int columns, bool aligned) {
  constexpr int kPitch = kColumns / kValuesPerWord<T> + 4;
  if (aligned) {
    constexpr int kValues = 16 / sizeof(T), kPackets = kColumns / kValues;
    for (int i = thread_index(); i < kRows * kPackets; i += kThreads) {
      const int row = i / kPackets, packet = i % kPackets;
      const bool exists = row < rows && packet * kValues < columns;
      copy_async(staged + row * kPitch + packet * 4,
                 exists ? weights + static_cast<int64_t>(row) * H + packet * kValues : weights, exists);
    }
    GRU_FAULT(no_copy_wait, copy_async_wait(), void());
  } else {
    for (int i = thread_index(); i < kRows * kColumns; i += kThreads) {
      const int row = i / kColumns, column = i % kColumns;
      T value{};
      if (row < rows && column < columns) value = load_global(weights + static_cast<int64_t>(row) * H + column);
      store_shared(reinterpret_cast<T*>(staged + row * kPitch) + column, value);
    }
  }
}

// tensor + offset, where the tensor may be null, to which no offset may be added: a sum of integers. Nothing is loaded
// from there then.
template <typename T>
GRU_DEVICE const T* at_offset(const T* tensor, int64_t offset) {
  return reinterpret_cast<const T*>(reinterpret_cast<uintptr_t>(tensor) + offset * sizeof(T));
}

// The first element of step t of a tensor with a row for every step of every sequence.
template <typename scalar_t>
GRU_DEVICE scalar_t* rows_of_step(const StepRows<scalar_t>& tensor, const int64_t* offsets, int t) {
  return tensor.data + (offsets ? load_global(offsets + t) * tensor.row_stride : t * tensor.step_stride);
}

// The first row of step t in a tensor of N rows.
GRU_DEVICE int64_t row_of_step(const int64_t* offsets, int B, int t) {
  return offsets ? load_global(offsets + t) : static_cast<int64_t>(t) * B;
}

GRU_DEVICE int clamp(int x, int low, int high) { return x < low ? low : x > high ? high : x; }

}  // namespace device
}  // namespace gru_ext
