// The recurrent products of the persistent kernels: weights as a warp keeps them, what it multiplies them by, and the
// sums on their way to the threads that add them.
#pragma once

#include "cuda/persistent/pairs.cuh"
#include "cuda/persistent/types.cuh"

namespace gru_ext {
namespace device {

// Operand words as they were in memory to what the tensor core takes.
template <typename Operand>
GRU_DEVICE void to_operand(uint32_t (&words)[4]) {
  if constexpr (kValuesPerWord<Operand> == 1 && !kOnFmaUnits<Operand>) {
    GRU_UNROLL
    for (int i = 0; i < 4; ++i) words[i] = tf32_bits(float_of_bits(words[i]));
  }
}

// The A tiles of a warp, M rows of them, of each of which kRegisterTiles are in registers, the others in shared memory,
// which they begin. Where those are fewer than half, they are other tiles in every row, so that rows take turns to wait
// for them.
template <int M, int kRegisterTiles, int kSharedTiles>
struct WeightTiles {
  uint32_t registers[M][kRegisterTiles > 0 ? kRegisterTiles : 1][4];
  u32x4* overflow;  // (M, kSharedTiles), kWarpSize apart

  GRU_DEVICE WeightTiles() {
    const int warp = thread_index() / kWarpSize, lane = thread_index() % kWarpSize;
    overflow = reinterpret_cast<u32x4*>(shared_memory()) + warp * (M * kSharedTiles * kWarpSize) + lane;
  }

  GRU_DEVICE void keep(int m, int tile, const uint32_t (&a)[4]) {
    const int place = place_of(m, tile);
    if (place < kSharedTiles) {
      store_shared(overflow + (m * kSharedTiles + place) * kWarpSize, u32x4{a[0], a[1], a[2], a[3]});
    } else {
      GRU_UNROLL
      for (int i = 0; i < 4; ++i) registers[m][place < kSharedTiles ? 0 : place - kSharedTiles][i] = a[i];
    }
  }

  GRU_DEVICE void load(uint32_t (&a)[4], int m, int tile) const {
    const int place = place_of(m, tile);
    if (place < kSharedTiles) {
      const u32x4 v = load_shared(overflow + (m * kSharedTiles + place) * kWarpSize);
      a[0] = v.x, a[1] = v.y, a[2] = v.z, a[3] = v.w;
    } else {
      GRU_UNROLL
      for (int i = 0; i < 4; ++i) a[i] = registers[m][place < kSharedTiles ? 0 : place - kSharedTiles][i];
    }
  }

 private:
  // Of a row's tiles, those in shared memory first.
  GRU_DEVICE static constexpr int place_of(int m, int tile) {
    constexpr int kTiles = kRegisterTiles + kSharedTiles;
    const int first = 2 * kSharedTiles < kTiles ? (2 * m + 1) * kTiles / (2 * M) : kRegisterTiles;  // of them
    return (tile + kTiles - first) % kTiles;
  }
};

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

// The 8 rows of the operand that begin at `rows`, `pitch` words apart, as the tensor core takes them for two A tiles;
// where `order` is odd with neighbours exchanged.
GRU_DEVICE void load_operand(uint32_t (&b)[4], const uint32_t* rows, int pitch, int lane, int order = 0) {
  const int words = GRU_FAULT(misaligned, 4, 2);  // that a row of ldmatrix's has
  ldmatrix_x4(b, rows + (lane % 8 ^ order % 2) * pitch + lane / 8 * words);
}

// Adds to d the products of kTiles of the warp's tiles, from `first` on, in each of their M rows, with kRows rows of
// the operand, `pitch` words apart, where tile and the next begin at word column_of(tile). `order`: 0, 1, 8 or 9; what
// is computed of a row is that of `row ^ order`. On the FMA units it is 0.
template <typename Operand, int kTiles, int kRows, int M, typename Weights, typename ColumnOf>
GRU_DEVICE void multiply(float (&d)[M][kRows / 8][4], const Weights& weights, int first, const uint32_t* rows,
                         int pitch, const ColumnOf& column_of, int order = 0) {
  const int lane = thread_index() % kWarpSize, c = lane % 4;
  if constexpr (kOnFmaUnits<Operand>) {
    FmaSums<M, kRows> products;
    GRU_UNROLL
    for (int tile = 0; tile < kTiles; tile += 2) {
      uint32_t a[M][2][4];
      GRU_UNROLL
      for (int i = 0; i < 2 * M; ++i) weights.load(a[i / 2][i % 2], i / 2, first + tile + i % 2);
      products.add(a, rows + column_of(first + tile), pitch, c);
    }
    GRU_UNROLL
    for (int m = 0; m < M; ++m) {
      GRU_UNROLL
      for (int n = 0; n < kRows / 8; ++n) products.add_to(d[m][n], m, n, c);
    }
  } else {
    // An mma takes five times as long to its result as to the next one. One D tile alone has two sums, therefore.
    constexpr bool kAlone = M * kRows == 8;
    float odd[4] = {};
    GRU_UNROLL
    for (int tile = 0; tile < kTiles; tile += 2) {
      uint32_t b[kRows / 8][4];
      GRU_UNROLL
      for (int n = 0; n < kRows / 8; ++n)
        load_operand(b[n], rows + (n ^ order / 8) * 8 * pitch + column_of(first + tile), pitch, lane, order);
      GRU_UNROLL
      for (int k = 0; k < 2 && tile + k < kTiles; ++k) {
        GRU_UNROLL
        for (int m = 0; m < M; ++m) {
          uint32_t a[4];
          weights.load(a, m, first + tile + k);
          GRU_UNROLL
          for (int n = 0; n < kRows / 8; ++n) {
            mma<Operand>(kAlone && k == 1 ? odd : d[m][n], a, b[n][2 * k], b[n][2 * k + 1]);
          }
        }
      }
    }
    GRU_UNROLL
    for (int i = 0; i < 4 && kAlone; ++i) d[0][0][i] += odd[i];
  }
}

// A D tile of a warp to shared memory: `sums` has its 8 rows of the batch, `pitch` apart, and begins with its units.
GRU_DEVICE void store_sum_tile(float* sums, int pitch, const float (&d)[4]) {
  const int lane = thread_index() % kWarpSize, g = lane / 4, c = lane % 4;
  GRU_UNROLL
  for (int i = 0; i < 4; ++i) store_shared(sums + (2 * c + i % 2) * pitch + g + i / 2 * 8, d[i]);
}

// The sum of kCount pairs in shared memory, `pitch` floats apart, in their order.
template <int kCount>
GRU_DEVICE Pair<float> sum_of_parts(const float* first, int pitch) {
  Pair<float> sum = load_shared(reinterpret_cast<const Pair<float>*>(first));
  GRU_UNROLL
  for (int i = 1; i < kCount; ++i) {
    const Pair<float> part = load_shared(reinterpret_cast<const Pair<float>*>(first + i * pitch));
    sum.first += part.first;
    sum.second += part.second;
  }
  return sum;
}

// Copies kRows rows of kColumns values to shared memory, 4 words of padding after each, so that ldmatrix meets every
// bank once; all threads of the block call it. `weights` is the first row in a matrix of H columns, of which `rows`
// rows are left. The columns begin at `first`, and go on from kRing at 0; beyond H values are zero. aligned: every row
// begins at a multiple of 16 bytes.
template <int kRows, int kColumns, int kRing, int kThreads, typename T>
GRU_DEVICE void stage_weights(uint32_t* staged, const T* weights, int H, int rows, int first, bool aligned) {
  constexpr int kPitch = kColumns / kValuesPerWord<T> + 4;
  const auto column_of = [&](int i) { return first + i < kRing ? first + i : first + i - kRing; };
  if (aligned) {
    constexpr int kValues = 16 / sizeof(T), kPackets = kColumns / kValues;
    for (int i = thread_index(); i < kRows * kPackets; i += kThreads) {
      const int row = i / kPackets, packet = i % kPackets, column = column_of(packet * kValues);
      const bool exists = row < rows && column < H;
      copy_async(staged + row * kPitch + packet * 4,
                 exists ? weights + static_cast<int64_t>(row) * H + column : weights, exists);
    }
    GRU_FAULT(no_copy_wait, copy_async_wait(), void());
  } else {
    for (int i = thread_index(); i < kRows * kColumns; i += kThreads) {
      const int row = i / kColumns, column = column_of(i % kColumns);
      T value{};
      if (row < rows && column < H) value = load_global(weights + static_cast<int64_t>(row) * H + column);
      store_shared(reinterpret_cast<T*>(staged + row * kPitch) + i % kColumns, value);
    }
  }
}

}  // namespace device
}  // namespace gru_ext
