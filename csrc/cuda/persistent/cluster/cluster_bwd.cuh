// The recurrence backwards, all steps of a layer and both directions in one launch: a cluster of C blocks keeps the
// recurrent weights R (3H, H) in registers and shared memory, and works through the steps of a tile of rows.
//
//     d  = dL/dh' + dy                       dn = d * (1 - z) * (1 - n^2)        dz = d * (h - n) * z * (1 - z)
//                                            dr = dn * q * r * (1 - r)           dq = dn * r
//     dL/dh = d * z + R_r' dr + R_z' dz + R_n' dq
//
// Grid: D * tiles clusters of C blocks. Block `rank` of a cluster owns H / C hidden units, and of each the same three
// rows of R as forward. It has all it needs for the gate gradients of its units; it multiplies them into all H units of
// dL/dh, and sends each block of the cluster the part of the sum that belongs to that block's units.
//
//   1. Wait until the parts of dL/dh for the own units have come from all blocks.             mbarrier
//   2. A thread adds the parts of its pairs of units, in the order of the blocks, and computes the gate gradients; they
//      go to global memory, and rounded to the operand type to shared memory.                 barrier of the block
//   3. mma: (16 units of dL/dh) x (the block's gate rows) x (rows of the tile). The transpose of R is the A operand, in
//      registers as far as it fits; the gate gradients are the B operand, by ldmatrix.
//   4. Neighbouring threads exchange halves, so that each has two units of two rows, 16 bytes, and send them.
// After the last step the parts that come are dL/dh0.
//
// Shared memory is written by: parts, by asynchronous stores of the whole cluster; dgates, by all threads of the block;
// overflow weights, by the warp that reads them.
//
// Why so few barriers are enough. parts has two buffers, by the parity of the step. A block sends the parts of step s +
// 1 when it has those of step s, so when every block of the cluster has sent some; they do so after the block barrier
// of step s - 1, when all their threads have read the parts of step s - 1, which were in the buffer of s + 1. dgates
// has two buffers too: a warp that is slow to multiply those of step s arrives at the block barrier of step s + 1
// before anybody writes those of step s + 2. With C = 1 there is no mbarrier; a second block barrier takes its place.
// The cluster barriers before and after the loop, and waits that take too long: as in cluster_fwd.cuh.
#pragma once

#include "cuda/persistent/bwd_pair.cuh"
#include "cuda/persistent/tiles.cuh"

namespace gru_ext {
namespace device {

// Name, Hidden, C, Rows, Warps: as in GruClusterFwdTraits. RegisterTiles: of the A tiles of 16 units of dL/dh, those
// that are in registers; the others are in shared memory.
template <typename Name, int Hidden, int C_, int Rows, int Warps, int RegisterTiles>
struct GruClusterBwdTraits {
  using T = typename TypesOf<Name>::Tensor;
  using Operand = typename TypesOf<Name>::Operand;
  static constexpr Exchange kExchange = C_ == 1 ? Exchange::none : Exchange::cluster;
  static constexpr int kHidden = Hidden, kC = C_, kRows = Rows, kWarps = Warps, kRegisterTiles = RegisterTiles;
  static constexpr int kThreads = Warps * kWarpSize;
  static constexpr int kUnits = Hidden / C_;                 // of a block
  static constexpr int kUnitTiles = Hidden / 16 / Warps;     // A tiles of a warp in the direction of H
  static constexpr int kTileValues = 8 * kValuesPerWord<T>;  // gate rows in a tile
  static constexpr int kTiles = 3 * kUnits / kTileValues;    // A tiles in the direction of the gate rows
  static constexpr int kSharedTiles = kTiles - RegisterTiles;
  static constexpr int kPassRows = Rows < 16 || kOnFmaUnits<Operand> ? 8 : 16;  // whose sums are in registers at a time
  static constexpr int kPairs = (kUnits / 2 * Rows + kThreads - 1) / kThreads;  // of a thread
  // Words between rows of dgates: tiles in twos, for ldmatrix, which meets every bank once.
  static constexpr int kPitch = (kTiles + kTiles % 2) * 8 + 4;
  static constexpr int kPartPitch = 2 * Rows + 4;  // floats between pairs of units: loads meet every bank once
  // Gate rows that are on their way from global memory to registers at a time.
  static constexpr int stage_rows(int rows) {
    return rows % 32 || rows * (Hidden / kValuesPerWord<T> + 4) * 4 <= 72 * 1024 ? rows : stage_rows(rows / 2);
  }
  static constexpr int kStageRows = stage_rows(kUnits);

  static constexpr int kPartFloats = kUnits / 2 * kPartPitch;  // from one block
  static constexpr int kStageBytes = kStageRows * (Hidden / kValuesPerWord<T> + 4) * 4;
  static constexpr int kPartBytes = 2 * C_ * kPartFloats * 4;
  static constexpr int kDgatesBytes = 2 * Rows * kPitch * 4;
  static constexpr int kBiasBytes = 4 * Rows * kUnits * 4;  // when the steps are done
  static constexpr int max(int a, int b) { return a > b ? a : b; }
  static constexpr int kOverflowBytes = Warps * kUnitTiles * kSharedTiles * kWarpSize * 16;  // of the weights
  static constexpr int kMbarrierOffset = kOverflowBytes;
  static constexpr int kDgatesOffset = kMbarrierOffset + 2 * 8;
  static constexpr int kPartOffset = kDgatesOffset + kDgatesBytes;
  static constexpr int kSharedBytes = kDgatesOffset + max(kStageBytes, kDgatesBytes + max(kPartBytes, kBiasBytes));
  static constexpr int kExchangeBytes = Hidden * Rows * 4;  // what a block receives in a step

  static_assert(C_ >= 1 && C_ <= 16, "a cluster has at most 16 blocks");
  static_assert(Hidden % (16 * C_) == 0 && Hidden % (16 * Warps) == 0, "blocks and warps own whole tiles of 16 units");
  static_assert(kUnits % kStageRows == 0 && kStageRows % 16 == 0, "whole stages");
  static_assert(Rows == 8 || Rows % 16 == 0, "the tensor core takes 8 rows, a pass 16");
  static_assert(RegisterTiles >= 0 && RegisterTiles <= kTiles, "register tiles");
  static_assert(kDgatesOffset % 16 == 0 && kDgatesBytes % 16 == 0 && kPartPitch % 4 == 0, "alignment");
  static_assert(kSharedBytes <= (C_ == 1 ? 163 : 227) * 1024, "the shared memory of a block, sm_80 and sm_90");
};

template <typename Traits>
GRU_DEVICE void gru_cluster_bwd(const PersistentBwdParams<typename Traits::T>& p) {
  using T = typename Traits::T;
  using Operand = typename Traits::Operand;
  using Words = PairWords<Operand>;
  constexpr int C = Traits::kC, kRows = Traits::kRows, kTiles = Traits::kTiles, kPitch = Traits::kPitch;
  constexpr int kUnits = Traits::kUnits, kUnitTiles = Traits::kUnitTiles, kPairs = Traits::kPairs;
  constexpr int kRegisterTiles = Traits::kRegisterTiles, kPartPitch = Traits::kPartPitch;

  const int thread = thread_index(), warp = thread / kWarpSize, lane = thread % kWarpSize;
  const int rank = C == 1 ? 0 : cluster_rank();
  const int tiles = (p.B + kRows - 1) / kRows;
  const int cluster = block_index() / C, direction = cluster / tiles;
  const int row0 = cluster % tiles * kRows;  // the tile's first
  const int unit0 = rank * kUnits;           // the block's first
  const int H = p.H;
  const int steps = p.lengths ? load_global(p.lengths + row0) : p.T;  // the first row of a tile has the most
  const bool reverse = direction == 1;
  const int g = lane / 4, c = lane % 4;  // see primitives.cuh, tensor cores

  char* const shared = shared_memory();
  u32x4* const overflow = reinterpret_cast<u32x4*>(shared) + warp * (kUnitTiles * Traits::kSharedTiles * kWarpSize) +
                          lane;  // (kUnitTiles, kSharedTiles), kWarpSize apart
  uint64_t* const mbarriers = reinterpret_cast<uint64_t*>(shared + Traits::kMbarrierOffset);
  uint32_t* const dgates = reinterpret_cast<uint32_t*>(shared + Traits::kDgatesOffset);  // (2, rows, kPitch): r, z, q
  uint32_t* const staged = dgates;                                                       // before the first step
  float* const parts = reinterpret_cast<float*>(shared + Traits::kPartOffset);  // (2, C, kUnits / 2, kPartPitch): of
                                                                                // each row, two units

  if constexpr (C > 1) {
    if (thread == 0) {
      GRU_UNROLL
      for (int i = 0; i < 2; ++i) {
        mbarrier_init(mbarriers + i, 1);
        mbarrier_arrive_expect(mbarriers + i, Traits::kExchangeBytes);
      }
      mbarrier_init_fence();
    }
  }

  // The tile of 16 units of dL/dh that is this warp's m-th. Blocks begin at their own, so that they send to different
  // blocks at a time.
  const auto tile_of_h = [&](int m) { return (warp * kUnitTiles + m + unit0 / 16) % (Traits::kHidden / 16); };

  // A tiles of this warp, by way of shared memory that is free before the first step. Beyond H they are zero.
  uint32_t weights[kUnitTiles][kRegisterTiles > 0 ? kRegisterTiles : 1][4];
  GRU_UNROLL
  for (int first = 0; first < 3 * kUnits; first += Traits::kStageRows) {
    constexpr int kStagePitch = Traits::kHidden / kValuesPerWord<T> + 4;
    const int unit = unit0 + first % kUnits;
    stage_weights<Traits::kStageRows, Traits::kHidden, Traits::kThreads>(
        staged, p.weight_hh[direction] + static_cast<int64_t>(first / kUnits * H + unit) * H, H, H - unit, H,
        p.aligned);
    block_barrier();
    GRU_UNROLL
    for (int m = 0; m < kUnitTiles; ++m) {
      GRU_UNROLL
      for (int i = 0; i < Traits::kStageRows; i += Traits::kTileValues) {
        const int tile = (first + i) / Traits::kTileValues;
        uint32_t a[4];
        if constexpr (kValuesPerWord<T> == 2) {
          ldmatrix_x4_transposed(
              a, staged + (i + lane / 16 * 8 + lane % 8) * kStagePitch + tile_of_h(m) * 8 + lane / 8 % 2 * 4);
        } else {
          GRU_UNROLL
          for (int j = 0; j < 4; ++j) {
            const int row = kOnFmaUnits<Operand> ? i / 16 * 16 + 4 * c + i / 8 % 2 * 2 + j / 2 : i + c + j / 2 * 4;
            a[j] = load_shared(staged + row * kStagePitch + tile_of_h(m) * 16 + g + j % 2 * 8);
          }
          to_operand<Operand>(a);
        }
        keep_tile<kRegisterTiles, Traits::kSharedTiles>(weights, overflow, m, tile, a);
      }
    }
    block_barrier();
  }

  // ldmatrix loads tiles in twos: the one beyond an odd number is never multiplied, but it is read.
  if constexpr (kTiles % 2 == 1) {
    for (int i = thread; i < 2 * kRows * 8; i += Traits::kThreads) {
      store_shared(dgates + i / 8 * kPitch + kTiles * 8 + i % 8, 0u);
    }
  }

  const BlockWork work{direction, row0, unit0};
  BwdPair<T> own[kPairs];
  GRU_UNROLL
  for (int e = 0; e < kPairs; ++e) {
    const int i = thread + e * Traits::kThreads;
    own[e].begin(p, work, kRows, i / (kUnits / 2) < kRows ? i / 8 % kRows : kRows, (i / (8 * kRows) * 8 + i % 8) * 2);
  }

  if constexpr (C > 1) {
    cluster_barrier();
  } else {
    block_barrier();
  }

  const bool packed = p.offsets != nullptr;
  const auto row_of_step = [&](int s) { return s < steps ? first_row(p, reverse ? s : steps - 1 - s) : 0; };
  int64_t row = row_of_step(0), row_before = row_of_step(1);
  bool failed = false;
  GRU_NO_UNROLL
  for (int s = 0;; ++s) {
    at_step(s);
    const int buffer = s % 2, t = reverse ? s : steps - 1 - s;
    if (s < steps) {
      GRU_UNROLL
      for (int e = 0; e < kPairs; ++e) own[e].load_step(p, work, {t, row}, row_before);
    }
    if (s > 0) {
      if constexpr (C > 1) {
        failed |= !mbarrier_wait(mbarriers + buffer, (s - 1) / 2 % 2, p.wait_limit);
        if (!failed && thread == 0) mbarrier_arrive_expect(mbarriers + buffer, Traits::kExchangeBytes);
      } else {
        block_barrier();
      }
      GRU_UNROLL
      for (int e = 0; e < kPairs; ++e) {
        auto& pair = own[e];
        if (pair.row >= kRows) continue;
        float sum[2] = {};
        GRU_UNROLL
        for (int from = 0; from < C; ++from) {
          const Pair<float> part = load_shared(reinterpret_cast<const Pair<float>*>(
              parts + (buffer * C + from) * Traits::kPartFloats + pair.unit / 2 * kPartPitch + pair.row * 2));
          sum[0] += part.first;
          sum[1] += part.second;
        }
        pair.d[0] += sum[0];
        pair.d[1] += sum[1];
      }
    }
    if (s == steps) break;

    uint32_t* const operand = dgates + GRU_FAULT(one_dgates_buffer, buffer, 0) * kRows * kPitch;
    T* const dgates_of_step = rows_of_step(p.dgates[direction], packed, {t, row});
    T* const h_prev_of_step = p.h_prev[direction].data ? rows_of_step(p.h_prev[direction], packed, {t, row}) : nullptr;
    GRU_UNROLL
    for (int e = 0; e < kPairs; ++e) {
      auto& pair = own[e];
      GateGrads<float> grads[2] = {};
      pair.differentiate(t, grads);
      if (pair.row < kRows) {
        uint32_t* const to = operand + pair.row * kPitch + pair.unit / kValuesPerWord<T>;
        const Words words[3] = {Words::of(grads[0].r, grads[1].r), Words::of(grads[0].z, grads[1].z),
                                Words::of(grads[0].q, grads[1].q)};
        GRU_UNROLL
        for (int gate = 0; gate < 3; ++gate) {
          GRU_UNROLL
          for (int w = 0; w < Words::count; ++w) {
            store_shared(to + gate * (kUnits / kValuesPerWord<T>)+w, words[gate].word[w]);
          }
        }
      }
      pair.store_step(p, work, t, dgates_of_step, h_prev_of_step, grads);
    }
    row = row_before;
    row_before = row_of_step(s + 2);
    failed = GRU_FAULT(no_block_barrier, block_barrier_or(failed), failed);
    if (failed) break;

    float* const next = parts + (GRU_FAULT(one_part_buffer, (s + 1) % 2, s % 2) * C + rank) * Traits::kPartFloats;
    GRU_NO_UNROLL
    for (int pass = 0; pass < kRows; pass += Traits::kPassRows) {
      constexpr int kColumns = Traits::kPassRows / 8;  // of D tiles
      float d[kUnitTiles][kColumns][4] = {};
      if constexpr (kOnFmaUnits<Operand>) {
        FmaSums<kUnitTiles, Traits::kPassRows> products;
        GRU_UNROLL
        for (int tile = 0; tile < kTiles; tile += 2) {
          uint32_t a[kUnitTiles][2][4];
          GRU_UNROLL
          for (int i = 0; i < 2 * kUnitTiles; ++i)
            load_tile<kRegisterTiles, Traits::kSharedTiles>(a[i / 2][i % 2], weights, overflow, i / 2, tile + i % 2);
          products.add(a, operand + pass * kPitch + tile * 8, kPitch, c);
        }
        GRU_UNROLL
        for (int m = 0; m < kUnitTiles; ++m) {
          GRU_UNROLL
          for (int n = 0; n < kColumns; ++n) products.add_to(d[m][n], m, n, c);
        }
      } else {
        GRU_UNROLL
        for (int tile = 0; tile < kTiles; tile += 2) {
          uint32_t b[kColumns][4];
          GRU_UNROLL
          for (int n = 0; n < kColumns; ++n) {
            ldmatrix_x4(b[n], operand + (pass + n * 8 + lane % 8) * kPitch + tile * 8 + lane / 8 * 4);
          }
          GRU_UNROLL
          for (int k = 0; k < 2 && tile + k < kTiles; ++k) {
            GRU_UNROLL
            for (int m = 0; m < kUnitTiles; ++m) {
              uint32_t a[4];
              load_tile<kRegisterTiles, Traits::kSharedTiles>(a, weights, overflow, m, tile + k);
              GRU_UNROLL
              for (int n = 0; n < kColumns; ++n) mma<Operand>(d[m][n], a, b[n][2 * k], b[n][2 * k + 1]);
            }
          }
        }
      }
      // Threads whose g differ in the last bit exchange halves: the even one gets units g and g + 1, the odd one units
      // g + 7 and g + 8, both of rows 2c and 2c + 1.
      const bool odd = g % 2 == 1;
      GRU_UNROLL
      for (int m = 0; m < kUnitTiles; ++m) {
        const int owner = tile_of_h(m) / (kUnits / 16), unit = tile_of_h(m) % (kUnits / 16) * 16 + (odd ? g + 7 : g);
        GRU_UNROLL
        for (int n = 0; n < kColumns; ++n) {
          const float* const sum = d[m][n];
          const float other[2] = {shuffle_xor(odd ? sum[0] : sum[2], 4), shuffle_xor(odd ? sum[1] : sum[3], 4)};
          const u32x4 packet = {float_bits(odd ? other[0] : sum[0]), float_bits(odd ? sum[2] : other[0]),
                                float_bits(odd ? other[1] : sum[1]), float_bits(odd ? sum[3] : other[1])};
          float* const to = next + unit / 2 * kPartPitch + (pass + n * 8 + 2 * c) * 2;
          if constexpr (C == 1) {
            store_shared(reinterpret_cast<u32x4*>(to), packet);
          } else {
            store_async(to, mbarriers + (s + 1) % 2, owner, packet);
          }
        }
      }
    }
  }

  // All parts have come and, after this barrier, been read.
  failed = block_barrier_or(failed);
  store_bwd_results<kRows, kUnits, Traits::kThreads>(p, work, cluster, failed, own, parts);
  if constexpr (C > 1) cluster_barrier();
}

template <typename Traits>
GRU_KERNEL(Traits::kThreads, 1)
gru_cluster_bwd_kernel(const PersistentBwdParams<typename Traits::T> p) {
  constexpr bool kServes = Traits::kC == 1 ? kHasAsyncCopies : kHasClusters;
  if constexpr (kServes) gru_cluster_bwd<Traits>(p);
}

}  // namespace device
}  // namespace gru_ext
