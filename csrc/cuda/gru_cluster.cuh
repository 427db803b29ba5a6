// What the cluster-persistent kernels, forward and backward, have in common.
#pragma once

#include <type_traits>

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

// Float32 values that are multiplied on the FMA units, without rounding them before.
struct ieee {
  float value;
};

// By what a kernel is named: bfloat16, float16, float, whose operands on the tensor core are TF32, or ieee, for float.
template <typename Name>
struct TypesOf {
  using Tensor = Name;
  using Operand = Name;
  using Math = FastMath;  // of the gates
};
template <>
struct TypesOf<float> {
  using Tensor = float;
  using Operand = tf32;
  using Math = FastMath;
};
template <>
struct TypesOf<ieee> {
  using Tensor = float;
  using Operand = ieee;
  using Math = AccurateMath<float>;
};
template <typename Operand>
constexpr bool kOnFmaUnits = false;
template <>
constexpr bool kOnFmaUnits<ieee> = true;

// How many values a 32-bit word holds, of tensors or of operands.
template <typename T>
constexpr int kValuesPerWord = 4 / static_cast<int>(sizeof(T));

// Two neighbouring hidden units of a row: what a thread of the pointwise part works on.
template <typename T>
struct alignas(2 * sizeof(T)) Pair {
  T first, second;
};

// The operand words of a pair: one of two halves, or two.
template <typename Operand>
struct PairWords {
  static constexpr int count = 2 / kValuesPerWord<Operand>;
  uint32_t word[count];

  GRU_DEVICE static PairWords of(float first, float second) {
    if constexpr (count == 1) {
      return {{pack<Operand>(first, second)}};
    } else if constexpr (kOnFmaUnits<Operand>) {
      return {{float_bits(first), float_bits(second)}};
    } else {
      return {{tf32_bits(first), tf32_bits(second)}};
    }
  }
};

// A pair as it came from memory: halves in one word until they are used. Were they two registers, the compiler would
// take the word apart where the paths of load_pair meet, right behind the load, and every load would wait for the one
// before.
template <typename T>
struct LoadedPair {
  static constexpr bool kHalves = kValuesPerWord<T> == 2;
  using Memory = std::conditional_t<kHalves, uint32_t, Pair<T>>;
  Memory memory;

  GRU_DEVICE static LoadedPair at(const T* p) { return {load_global(reinterpret_cast<const Memory*>(p))}; }
  GRU_DEVICE static LoadedPair of(T first, T second) {
    if constexpr (kHalves) {
      return {static_cast<uint32_t>(second.bits) << 16 | first.bits};
    } else {
      return {{first, second}};
    }
  }
  GRU_DEVICE T first() const {
    if constexpr (kHalves) {
      return {static_cast<uint16_t>(memory)};
    } else {
      return memory.first;
    }
  }
  GRU_DEVICE T second() const {
    if constexpr (kHalves) {
      return {static_cast<uint16_t>(memory >> 16)};
    } else {
      return memory.second;
    }
  }
};

// Pairs at `from`, of each of which the first `counts` exist; the others are zero. `paired`: every pair of the tensor
// is aligned to its size and whole. All loads are under way before the first value is touched.
template <int N, typename T>
GRU_DEVICE void load_pairs(LoadedPair<T> (&pairs)[N], const T* const (&from)[N], const int (&counts)[N], bool paired) {
  if (paired) {
    GRU_UNROLL
    for (int i = 0; i < N; ++i) pairs[i] = counts[i] > 0 ? LoadedPair<T>::at(from[i]) : LoadedPair<T>{};
  } else {
    T halves[N][2];
    GRU_UNROLL
    for (int i = 0; i < 2 * N; ++i)
      halves[i / 2][i % 2] = counts[i / 2] > i % 2 ? load_global(from[i / 2] + i % 2) : T{};
    GRU_UNROLL
    for (int i = 0; i < N; ++i) pairs[i] = LoadedPair<T>::of(halves[i][0], halves[i][1]);
  }
}
template <typename T>
GRU_DEVICE LoadedPair<T> load_pair(const T* from, int count, bool paired) {
  LoadedPair<T> pair[1];
  load_pairs(pair, {from}, {count}, paired);
  return pair[0];
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
template <typename Operand>
GRU_DEVICE void to_operand(uint32_t (&words)[4]) {
  if constexpr (kValuesPerWord<Operand> == 1 && !kOnFmaUnits<Operand>) {
    GRU_UNROLL
    for (int i = 0; i < 4; ++i) words[i] = tf32_bits(float_of_bits(words[i]));
  }
}

// The A tiles of a warp, M rows of them: the first kRegisterTiles of a row in registers, the others in shared memory,
// (M, kSharedTiles), kWarpSize apart.
template <int kRegisterTiles, int kSharedTiles, int M, int N>
GRU_DEVICE void keep_tile(uint32_t (&registers)[M][N][4], u32x4* overflow, int m, int tile, const uint32_t (&a)[4]) {
  if (tile < kRegisterTiles) {
    GRU_UNROLL
    for (int i = 0; i < 4; ++i) registers[m][tile < kRegisterTiles ? tile : 0][i] = a[i];
  } else {
    store_shared(overflow + (m * kSharedTiles + tile - kRegisterTiles) * kWarpSize, u32x4{a[0], a[1], a[2], a[3]});
  }
}
template <int kRegisterTiles, int kSharedTiles, int M, int N>
GRU_DEVICE void load_tile(uint32_t (&a)[4], const uint32_t (&registers)[M][N][4], const u32x4* overflow, int m,
                          int tile) {
  if (tile < kRegisterTiles) {
    GRU_UNROLL
    for (int i = 0; i < 4; ++i) a[i] = registers[m][tile < kRegisterTiles ? tile : 0][i];
  } else {
    const u32x4 v = load_shared(overflow + (m * kSharedTiles + tile - kRegisterTiles) * kWarpSize);
    a[0] = v.x, a[1] = v.y, a[2] = v.z, a[3] = v.w;
  }
}

// Products on the FMA units, in the place of mma: M tiles of 16 units, kRows rows of the batch. The four threads of the
// same g share out the columns of A: of every 16, the two of an even tile and the two of the odd one after it that
// begin at 4c. Of tile t they hold, with column = 4c + 2 (t % 2),
//   a[0] = A[g][column], a[1] = A[g + 8][column], a[2] = A[g][column + 1], a[3] = A[g + 8][column + 1]
template <int M, int kRows>
struct FmaSums {
  float sum[M][2][kRows] = {};  // of units g and g + 8, over this thread's columns

  // Adds the products of two tiles, an even one and the next, with 16 words of the rows, `pitch` apart.
  GRU_DEVICE void add(const uint32_t (&a)[M][2][4], const uint32_t* rows, int pitch, int c) {
    GRU_UNROLL
    for (int row = 0; row < kRows; ++row) {
      const u32x4 words = load_shared(reinterpret_cast<const u32x4*>(rows + row * pitch + 4 * c));
      const float b[4] = {float_of_bits(words.x), float_of_bits(words.y), float_of_bits(words.z),
                          float_of_bits(words.w)};
      GRU_UNROLL
      for (int m = 0; m < M; ++m) {
        GRU_UNROLL
        for (int i = 0; i < 8; ++i) sum[m][i % 2][row] += float_of_bits(a[m][i / 4][i % 4]) * b[i / 2];
      }
    }
  }

  // Adds to d the whole sums of tile m and of the n-th 8 rows that the tensor core would leave there. All threads of
  // the warp call it: those of the same g exchange halves, then quarters.
  GRU_DEVICE void add_to(float (&d)[4], int m, int n, int c) const {
    GRU_UNROLL
    for (int half = 0; half < 2; ++half) {
      const auto of = [&](int row) { return sum[m][half][8 * n + row]; };
      float four[4];
      GRU_UNROLL
      for (int i = 0; i < 4; ++i) {
        four[i] = (c < 2 ? of(i) : of(i + 4)) + shuffle_xor(c < 2 ? of(i + 4) : of(i), 2);
      }
      GRU_UNROLL
      for (int i = 0; i < 2; ++i) {
        d[2 * half + i] += (c % 2 == 0 ? four[i] : four[i + 2]) + shuffle_xor(c % 2 == 0 ? four[i + 2] : four[i], 1);
      }
    }
  }
};

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
GRU_DEVICE T* at_offset(T* tensor, int64_t offset) {
  return reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(tensor) + offset * sizeof(T));
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
