// The recurrence backwards for an R that is too large for a cluster, and for GPUs without clusters: all steps of a
// layer and both directions in one launch, by groups of C blocks that keep R (3H, H) in registers and shared memory.
//
//     d  = dL/dh' + dy                       dn = d * (1 - z) * (1 - n^2)        dz = d * (h - n) * z * (1 - z)
//                                            dr = dn * q * r * (1 - r)           dq = dn * r
//     dL/dh = d * z + R_r' dr + R_z' dz + R_n' dq
//
// Grid: D * tiles groups of C blocks, all of which run at the same time. Block `rank` of a group owns H / C hidden
// units, and of R their columns, so that it computes the whole of dL/dh of its units. For that it needs dr, dz and dq
// of all units of the layer: what a block of cluster_bwd.cuh sends, parts of dL/dh for everybody else, would be
// written to the L2 cache C times; the gate gradients are written once, and fetched by all.
//
// Warps: those of a block form groups, one for every 16 units; the warps of a group share out the sum over the gate
// rows.
//   1. Fetch the gate gradients of the step before, as packets in global memory, which here means the L2 cache, each
//      the three of a unit, or pair of units, and a tag that says of which step they are; put them into shared memory.
//                                                                                            barrier of the block
//   2. mma: (16 units of dL/dh) x (its part of the gate rows) x (rows of the tile). The transpose of R is the A
//      operand, in registers as far as it fits; the gate gradients are the B operand, by ldmatrix.
//   3. Write the partial sums to shared memory.                                              barrier of the block
//   4. A thread adds those of its pairs of units, in the order of the parts, computes the gate gradients, sends them,
//      and stores them.
// After the last step this goes on up to the sums, which give dL/dh0.
//
// Why so few barriers are enough. The packets have two buffers, by the parity of the step: a block that sends those of
// step s + 1 has had all of step s, whose senders had fetched all of step s - 1. In shared memory one buffer is enough,
// as all threads pass the second barrier of a step before any of them writes there again, and the first of the next
// before any writes sums.
//
// Waits that take too long: as in cluster_fwd.cuh.
#pragma once

#include "cuda/persistent/bwd_pair.cuh"
#include "cuda/persistent/tiles.cuh"

namespace gru_ext {
namespace device {

// Name, Hidden, Rows, Warps: as in GruClusterFwdTraits; C: the blocks of a group. RegisterTiles: of the A tiles of a
// warp and gate, those that are in registers; the others are in shared memory.
template <typename Name, int Hidden, int C_, int Rows, int Warps, int RegisterTiles>
struct GruGroupBwdTraits {
  using T = typename TypesOf<Name>::Tensor;
  using Operand = typename TypesOf<Name>::Operand;
  static constexpr Exchange kExchange = Exchange::packets;
  static constexpr int kHidden = Hidden, kC = C_, kRows = Rows, kWarps = Warps, kRegisterTiles = RegisterTiles;
  static constexpr int kThreads = Warps * kWarpSize;
  static constexpr int kUnits = Hidden / C_;           // of a block
  static constexpr int kGroups = kUnits / 16;          // of warps
  static constexpr int kGroupWarps = Warps / kGroups;  // that share out the sum
  static constexpr int kGroupThreads = kGroupWarps * kWarpSize;
  static constexpr int kTileValues = 8 * kValuesPerWord<T>;          // gate rows in a tile
  static constexpr int kWords = Hidden / kValuesPerWord<T>;          // operand words of a row of one gate's gradients
  static constexpr int kTiles = Hidden / kTileValues / kGroupWarps;  // A tiles of a warp and gate
  static constexpr int kSharedTiles = kTiles - RegisterTiles;
  static constexpr int kPassRows = Rows < 16 || kOnFmaUnits<Operand> ? 8 : 16;  // whose sums are in registers at a time
  static constexpr int kPairs = (8 * Rows + kGroupThreads - 1) / kGroupThreads;  // of a thread
  static constexpr int kPitch = 3 * kWords + 4;  // words between rows of the gate gradients: ldmatrix meets every
                                                 // bank once
  static constexpr int kSumPitch = 16 + 4;       // floats between rows of the sums: their writes meet every bank once

  // Tiles of a warp that are on their way from global memory to registers at a time; those of all parts together.
  static constexpr int kStagePitch = kUnits / kValuesPerWord<T> + 4;
  static constexpr int stage_tiles(int tiles) {
    return tiles % 4 || kGroupWarps * tiles * kTileValues * kStagePitch * 4 <= 72 * 1024 ? tiles
                                                                                         : stage_tiles(tiles / 2);
  }
  static constexpr int kStageTiles = stage_tiles(kTiles);
  static constexpr int kStageRows = kGroupWarps * kStageTiles * kTileValues;

  static constexpr int max(int a, int b) { return a > b ? a : b; }
  static constexpr int kDgatesBytes = Rows * kPitch * 4;
  static constexpr int kSumBytes = kGroups * kGroupWarps * Rows * kSumPitch * 4;
  static constexpr int kBiasBytes = 4 * Rows * kUnits * 4;  // when the steps are done
  static constexpr int kStageBytes = kStageRows * kStagePitch * 4;
  static constexpr int kOverflowBytes = Warps * 3 * kSharedTiles * kWarpSize * 16;  // of the weights
  static constexpr int kDgatesOffset = kOverflowBytes;
  static constexpr int kSumOffset = kDgatesOffset + kDgatesBytes;
  static constexpr int kSharedBytes = kDgatesOffset + max(max(kDgatesBytes + kSumBytes, kBiasBytes), kStageBytes);
  static constexpr int kPackets = 2 * Rows * kWords;  // of both buffers
  static constexpr int kPacketBytes = kPackets * 16;

  static_assert(Hidden % (16 * C_) == 0, "a block owns whole tiles of 16 units");
  static_assert(Warps % kGroups == 0, "groups of equal size");
  static_assert(kWords % (16 * kGroupWarps) == 0, "ldmatrix loads two tiles of the gate gradients at a time");
  static_assert(Rows == 8 || Rows % 16 == 0, "the tensor core takes 8 rows, a pass 16");
  static_assert(RegisterTiles >= 0 && RegisterTiles <= kTiles && RegisterTiles % 2 == 0, "register tiles in twos");
  static_assert(kDgatesOffset % 16 == 0 && kPitch % 4 == 0 && kDgatesBytes % 16 == 0, "alignment of ldmatrix");
  static_assert(kTiles % kStageTiles == 0 && kStageTiles % 2 == 0, "whole stages, ldmatrix in twos");
  static_assert(kSharedBytes <= 227 * 1024, "the shared memory of a block, sm_90");
};

template <typename Traits>
GRU_DEVICE void gru_group_bwd(const PersistentBwdParams<typename Traits::T>& p) {
  using T = typename Traits::T;
  using Operand = typename Traits::Operand;
  using Words = PairWords<Operand>;
  constexpr int C = Traits::kC, kRows = Traits::kRows, kTiles = Traits::kTiles, kPitch = Traits::kPitch;
  constexpr int kRegisterTiles = Traits::kRegisterTiles, kSumPitch = Traits::kSumPitch, kPairs = Traits::kPairs;
  constexpr int kGroupWarps = Traits::kGroupWarps, kStageTiles = Traits::kStageTiles, kWords = Traits::kWords;

  const int thread = thread_index(), warp = thread / kWarpSize, lane = thread % kWarpSize;
  const int rank = block_index() % C;
  const int tiles = (p.B + kRows - 1) / kRows;
  const int block_group = p.first_group + block_index() / C, direction = block_group / tiles;
  const int group = warp % Traits::kGroups, part = warp / Traits::kGroups;  // of warps
  const int group_thread = part * kWarpSize + lane;
  const BlockWork work{direction, block_group % tiles * kRows, rank * Traits::kUnits};
  const int H = p.H;
  const int steps = p.lengths ? load_global(p.lengths + work.row0) : p.T;  // the first row of a tile has the most
  const bool reverse = direction == 1;
  const int g = lane / 4, c = lane % 4;  // see primitives.cuh, tensor cores

  char* const shared = shared_memory();
  u32x4* const overflow = reinterpret_cast<u32x4*>(shared) + warp * (3 * Traits::kSharedTiles * kWarpSize) +
                          lane;  // (3, kSharedTiles), kWarpSize apart
  uint32_t* const dgates = reinterpret_cast<uint32_t*>(shared + Traits::kDgatesOffset);  // (rows, kPitch): r, z, q
  uint32_t* const staged = dgates;                                                       // before the first step
  float* const sums = reinterpret_cast<float*>(shared + Traits::kSumOffset) +
                      group * (kGroupWarps * kRows * kSumPitch);                            // (parts, rows, kSumPitch)
  u32x4* const packets = p.packets + static_cast<int64_t>(block_group) * Traits::kPackets;  // (2, rows, kWords)

  // A tiles of this warp, by way of shared memory that is free before the first step. Beyond H they are zero.
  uint32_t weights[3][kRegisterTiles > 0 ? kRegisterTiles : 1][4];
  GRU_UNROLL
  for (int gate = 0; gate < 3; ++gate) {
    GRU_UNROLL
    for (int first = 0; first < kTiles; first += kStageTiles) {
      constexpr int kStagePitch = Traits::kStagePitch;
      const int row = first / kStageTiles * Traits::kStageRows;
      stage_weights<Traits::kStageRows, Traits::kUnits, Traits::kThreads>(
          staged, p.weight_hh[direction] + static_cast<int64_t>(gate * H + row) * H + work.unit0, H, H - row,
          H - work.unit0, p.aligned);
      block_barrier();
      GRU_UNROLL
      for (int i = 0; i < kStageTiles; ++i) {
        const int tile = first + i, row_of_stage = (part * kStageTiles + i) * Traits::kTileValues;
        uint32_t a[4];
        if constexpr (kValuesPerWord<T> == 2) {
          ldmatrix_x4_transposed(
              a, staged + (row_of_stage + lane / 16 * 8 + lane % 8) * kStagePitch + group * 8 + lane / 8 % 2 * 4);
        } else {
          GRU_UNROLL
          for (int j = 0; j < 4; ++j) {
            const int row_of_tile = kOnFmaUnits<Operand> ? 4 * c + i % 2 * 2 + j / 2 - i % 2 * 8 : c + j / 2 * 4;
            a[j] = load_shared(staged + (row_of_stage + row_of_tile) * kStagePitch + group * 16 + g + j % 2 * 8);
          }
          to_operand<Operand>(a);
        }
        keep_tile<kRegisterTiles, Traits::kSharedTiles>(weights, overflow, gate, tile, a);
      }
      block_barrier();
    }
  }

  BwdPair<T> own[kPairs];
  GRU_UNROLL
  for (int e = 0; e < kPairs; ++e) {
    const int i = group_thread + e * Traits::kGroupThreads;
    own[e].begin(p, work, kRows, i / 8, group * 16 + i % 8 * 2);
  }

  const bool packed = p.offsets != nullptr;
  const auto row_of_step = [&](int s) { return s < steps ? first_row(p, reverse ? s : steps - 1 - s) : 0; };
  int64_t row = row_of_step(0), row_before = row_of_step(1);
  bool failed = false;
  GRU_NO_UNROLL
  for (int s = 0;; ++s) {
    at_step(s);
    const int t = reverse ? s : steps - 1 - s;
    if (s < steps) {
      GRU_UNROLL
      for (int e = 0; e < kPairs; ++e) own[e].load_step(p, work, {t, row}, row_before);
    }
    const int64_t row_to_come = row_of_step(s + 2);
    if (s > 0) {
      const u32x4* const from = packets + s % 2 * kRows * kWords;
      constexpr int kCount = kRows * kWords, kAtOnce = 4;
      for (int first = thread; first < kCount && !failed; first += kAtOnce * Traits::kThreads) {
        const u32x4* fetched[kAtOnce];
        u32x4 values[kAtOnce];
        GRU_UNROLL
        for (int i = 0; i < kAtOnce; ++i) {
          const int packet = first + i * Traits::kThreads;
          fetched[i] = from + (packet < kCount ? packet : first);
        }
        failed |= !wait_for_triples(values, fetched, static_cast<uint32_t>(GRU_FAULT(wrong_tag, s, s < 2 ? s : s - 2)),
                                    p.wait_limit);
        GRU_UNROLL
        for (int i = 0; i < kAtOnce; ++i) {
          const int packet = first + i * Traits::kThreads;
          if (packet >= kCount) continue;
          uint32_t* const to = dgates + packet / kWords * kPitch + packet % kWords;
          store_shared(to, values[i].x);
          store_shared(to + kWords, values[i].y);
          store_shared(to + 2 * kWords, values[i].z);
        }
      }
      failed = GRU_FAULT(no_barrier_after_packets, block_barrier_or(failed), failed);
      if (failed) break;

      // A stage has kStageTiles tiles of every part.
      const auto tile_of_gate = [&](int tile) {
        return (tile / kStageTiles * kGroupWarps + part) * kStageTiles + tile % kStageTiles;
      };
      GRU_NO_UNROLL
      for (int pass = 0; pass < kRows; pass += Traits::kPassRows) {
        constexpr int kColumns = Traits::kPassRows / 8;  // of D tiles
        float d[3][kColumns][4] = {};                    // by gate, so that one mma need not wait for another
        const auto tile_of_dgates = [&](int gate, int tile) { return gate * kWords + tile_of_gate(tile) * 8; };
        if constexpr (kOnFmaUnits<Operand>) {
          FmaSums<1, Traits::kPassRows> products;
          GRU_UNROLL
          for (int tile = 0; tile < kTiles; tile += 2) {
            GRU_UNROLL
            for (int gate = 0; gate < 3; ++gate) {
              uint32_t a[1][2][4];
              GRU_UNROLL
              for (int i = 0; i < 2; ++i)
                load_tile<kRegisterTiles, Traits::kSharedTiles>(a[0][i], weights, overflow, gate, tile + i);
              products.add(a, dgates + pass * kPitch + tile_of_dgates(gate, tile), kPitch, c);
            }
          }
          GRU_UNROLL
          for (int n = 0; n < kColumns; ++n) products.add_to(d[0][n], 0, n, c);
        } else {
          GRU_UNROLL
          for (int tile = 0; tile < kTiles; tile += 2) {
            GRU_UNROLL
            for (int gate = 0; gate < 3; ++gate) {
              uint32_t b[kColumns][4];
              GRU_UNROLL
              for (int n = 0; n < kColumns; ++n) {
                ldmatrix_x4(b[n],
                            dgates + (pass + n * 8 + lane % 8) * kPitch + tile_of_dgates(gate, tile) + lane / 8 * 4);
              }
              GRU_UNROLL
              for (int k = 0; k < 2; ++k) {
                uint32_t a[4];
                load_tile<kRegisterTiles, Traits::kSharedTiles>(a, weights, overflow, gate, tile + k);
                GRU_UNROLL
                for (int n = 0; n < kColumns; ++n) mma<Operand>(d[gate][n], a, b[n][2 * k], b[n][2 * k + 1]);
              }
            }
          }
        }
        GRU_UNROLL
        for (int n = 0; n < kColumns; ++n) {
          float* const sum = sums + (part * kRows + pass + n * 8 + 2 * c) * kSumPitch + g;
          GRU_UNROLL
          for (int i = 0; i < 4; ++i) {
            store_shared(sum + i % 2 * kSumPitch + i / 2 * 8, d[0][n][i] + d[1][n][i] + d[2][n][i]);
          }
        }
      }
      GRU_FAULT(no_block_barrier, block_barrier(), void());
      GRU_UNROLL
      for (int e = 0; e < kPairs; ++e) {
        auto& pair = own[e];
        if (pair.row >= kRows) continue;
        float sum[2] = {};
        GRU_UNROLL
        for (int i = 0; i < kGroupWarps; ++i) {
          const Pair<float> of_part = load_shared(reinterpret_cast<const Pair<float>*>(
              sums + (i * kRows + pair.row) * kSumPitch + (pair.unit - group * 16)));
          sum[0] += of_part.first;
          sum[1] += of_part.second;
        }
        pair.d[0] += sum[0];
        pair.d[1] += sum[1];
      }
    }
    if (s == steps) break;

    T* const dgates_of_step = rows_of_step(p.dgates[direction], packed, {t, row});
    T* const h_prev_of_step = p.h_prev[direction].data ? rows_of_step(p.h_prev[direction], packed, {t, row}) : nullptr;
    GRU_UNROLL
    for (int e = 0; e < kPairs; ++e) {
      auto& pair = own[e];
      GateGrads<float> grads[2] = {};
      pair.differentiate(t, grads);
      if (pair.row < kRows) {  // others wait for these: they go first
        u32x4* const sent = packets + (GRU_FAULT(one_packet_buffer, (s + 1) % 2, 0) * kRows + pair.row) * kWords +
                            (work.unit0 + pair.unit) / kValuesPerWord<T>;
        const Words r = Words::of(grads[0].r, grads[1].r), z = Words::of(grads[0].z, grads[1].z),
                    q = Words::of(grads[0].q, grads[1].q);
        GRU_UNROLL
        for (int w = 0; w < Words::count; ++w) {
          store_triple(sent + w, r.word[w], z.word[w], q.word[w], static_cast<uint32_t>(s + 1));
        }
      }
      pair.store_step(p, work, t, dgates_of_step, h_prev_of_step, grads);
    }
    row = row_before;
    row_before = row_to_come;
  }

  failed = block_barrier_or(failed);
  store_bwd_results<kRows, Traits::kUnits, Traits::kThreads>(p, work, block_group, failed, own,
                                                             reinterpret_cast<float*>(dgates));
}

template <typename Traits>
GRU_KERNEL(Traits::kThreads, 1)
gru_group_bwd_kernel(const PersistentBwdParams<typename Traits::T> p) {
  if constexpr (kHasAsyncCopies) gru_group_bwd<Traits>(p);
}

}  // namespace device
}  // namespace gru_ext
