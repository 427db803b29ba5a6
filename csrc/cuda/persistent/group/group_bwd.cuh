// The recurrence backwards for an R that is too large for a cluster, and for GPUs without clusters: all steps of a
// layer and both directions in one launch, by groups of C blocks that keep R (3H, H) in registers and shared memory.
//
//     d  = dL/dh' + dy                       dn = d * (1 - z) * (1 - n^2)        dz = d * (h - n) * z * (1 - z)
//                                            dr = dn * q * r * (1 - r)           dq = dn * r
//     dL/dh = d * z + R_r' dr + R_z' dz + R_n' dq
//
// Grid: E * D * tiles groups of C blocks, all of which run at the same time. Block `rank` of a group owns H / C hidden
// units, and of R their columns, so that it computes the whole of dL/dh of its units. For that it needs dr, dz and dq
// of all units of the layer: what a block of cluster_bwd.cuh sends, parts of dL/dh for everybody else, would be
// written to the L2 cache C times; the gate gradients are written once, and fetched by all.
//
// Warps: those of a block form teams, one for every 16 units; the warps of a team share out the sum over the gate
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
#include "cuda/persistent/team_thread.cuh"
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
  static constexpr int kUnits = Hidden / C_;         // of a block
  static constexpr int kTeams = kUnits / 16;         // of warps
  static constexpr int kTeamWarps = Warps / kTeams;  // that share out the sum
  static constexpr int kTeamThreads = kTeamWarps * kWarpSize;
  static constexpr int kTileValues = 8 * kValuesPerWord<T>;         // gate rows in a tile
  static constexpr int kWords = Hidden / kValuesPerWord<T>;         // operand words of a row of one gate's gradients
  static constexpr int kTiles = Hidden / kTileValues / kTeamWarps;  // A tiles of a warp and gate
  static constexpr int kSharedTiles = kTiles - RegisterTiles;
  static constexpr int kPassRows = Rows < 16 || kOnFmaUnits<Operand> ? 8 : 16;  // whose sums are in registers at a time
  static constexpr int kPairs = (8 * Rows + kTeamThreads - 1) / kTeamThreads;   // of a thread
  static constexpr int kPitch = 3 * kWords + 4;  // words between rows of the gate gradients: ldmatrix meets every
                                                 // bank once
  static constexpr int kSumPitch = 16 + 4;       // floats between rows of the sums: their writes meet every bank once

  // Tiles of a warp that are on their way from global memory to registers at a time; those of all parts together.
  static constexpr int kStagePitch = kUnits / kValuesPerWord<T> + 4;
  static constexpr int stage_tiles(int tiles) {
    return tiles % 4 || kTeamWarps * tiles * kTileValues * kStagePitch * 4 <= 72 * 1024 ? tiles
                                                                                        : stage_tiles(tiles / 2);
  }
  static constexpr int kStageTiles = stage_tiles(kTiles);
  static constexpr int kStageRows = kTeamWarps * kStageTiles * kTileValues;

  static constexpr int max(int a, int b) { return a > b ? a : b; }
  static constexpr int kDgatesBytes = Rows * kPitch * 4;
  static constexpr int kSumBytes = kTeams * kTeamWarps * Rows * kSumPitch * 4;
  static constexpr int kBiasBytes = 4 * Rows * kUnits * 4;  // when the steps are done
  static constexpr int kStageBytes = kStageRows * kStagePitch * 4;
  static constexpr int kOverflowBytes = Warps * 3 * kSharedTiles * kWarpSize * 16;  // of the weights
  static constexpr int kDgatesOffset = kOverflowBytes;
  static constexpr int kSumOffset = kDgatesOffset + kDgatesBytes;
  static constexpr int kSharedBytes = kDgatesOffset + max(max(kDgatesBytes + kSumBytes, kBiasBytes), kStageBytes);
  static constexpr int kPackets = 2 * Rows * kWords;  // of both buffers
  static constexpr int kPacketBytes = kPackets * 16;

  static_assert(Hidden % (16 * C_) == 0, "a block owns whole tiles of 16 units");
  static_assert(Warps % kTeams == 0, "teams of equal size");
  static_assert(kWords % (16 * kTeamWarps) == 0, "ldmatrix loads two tiles of the gate gradients at a time");
  static_assert(Rows == 8 || Rows % 16 == 0, "the tensor core takes 8 rows, a pass 16");
  static_assert(RegisterTiles >= 0 && RegisterTiles <= kTiles && RegisterTiles % 2 == 0, "register tiles in twos");
  static_assert(kDgatesOffset % 16 == 0 && kPitch % 4 == 0 && kDgatesBytes % 16 == 0, "alignment of ldmatrix");
  static_assert(kTiles % kStageTiles == 0 && kStageTiles % 2 == 0, "whole stages, ldmatrix in twos");
  static_assert(kSharedBytes <= 227 * 1024, "the shared memory of a block, sm_90");
};

// A tiles of this warp, by way of shared memory that is free before the first step. Beyond H they are zero.
template <typename Traits>
GRU_DEVICE void load_group_bwd_weights(WeightTiles<3, Traits::kRegisterTiles, Traits::kSharedTiles>& weights,
                                       const PersistentBwdParams<typename Traits::T>& p, const TeamThread<Traits>& self,
                                       uint32_t* staged) {
  using T = typename Traits::T;
  using Operand = typename Traits::Operand;
  constexpr int kStageTiles = Traits::kStageTiles, kStagePitch = Traits::kStagePitch;
  const int H = p.H, lane = self.lane, c = self.c, unit0 = self.work.unit0;
  GRU_UNROLL
  for (int gate = 0; gate < 3; ++gate) {
    GRU_UNROLL
    for (int first = 0; first < Traits::kTiles; first += kStageTiles) {
      const int row = first / kStageTiles * Traits::kStageRows;
      stage_weights<Traits::kStageRows, Traits::kUnits, Traits::kHidden, Traits::kThreads>(
          staged, weights_of(p, self.work) + static_cast<int64_t>(gate * H + row) * H, H, H - row, unit0, p.aligned);
      block_barrier();
      GRU_UNROLL
      for (int i = 0; i < kStageTiles; ++i) {
        const int row_of_stage = (self.part * kStageTiles + i) * Traits::kTileValues;
        uint32_t a[4];
        if constexpr (kValuesPerWord<T> == 2) {
          ldmatrix_x4_transposed(
              a, staged + (row_of_stage + lane / 16 * 8 + lane % 8) * kStagePitch + self.team * 8 + lane / 8 % 2 * 4);
        } else {
          GRU_UNROLL
          for (int j = 0; j < 4; ++j) {
            const int row_of_tile = kOnFmaUnits<Operand> ? 4 * c + i % 2 * 2 + j / 2 - i % 2 * 8 : c + j / 2 * 4;
            a[j] =
                load_shared(staged + (row_of_stage + row_of_tile) * kStagePitch + self.team * 16 + self.g + j % 2 * 8);
          }
          to_operand<Operand>(a);
        }
        weights.keep(gate, first + i, a);
      }
      block_barrier();
    }
  }
}

// The gate gradients of all units and rows, as the blocks of a group send them to each other.
template <typename Traits>
struct GradExchange {
  u32x4* packets;    // (2, rows, kWords), of even and odd steps: a word of r, z and q, and of which step they are
  uint32_t* dgates;  // (rows, kPitch), in shared memory: r, z, q
  int thread, unit0;

  GRU_DEVICE GradExchange(const PersistentBwdParams<typename Traits::T>& p, const TeamThread<Traits>& self)
      : packets(p.packets + static_cast<int64_t>(self.cluster) * Traits::kPackets),
        dgates(reinterpret_cast<uint32_t*>(shared_memory() + Traits::kDgatesOffset)),
        thread(self.thread),
        unit0(self.work.unit0) {}

  // Fetches those of the step before step s; all threads call it. Returns whether they have come.
  GRU_DEVICE bool wait(int s, uint32_t limit) {
    constexpr int kWords = Traits::kWords, kCount = Traits::kRows * kWords, kAtOnce = 4;
    const uint32_t tag = GRU_FAULT(wrong_tag, s, s < 2 ? s : s - 2);
    const u32x4* const from = packets + s % 2 * Traits::kRows * kWords;
    bool failed = false;
    for (int first = thread; first < kCount && !failed; first += kAtOnce * Traits::kThreads) {
      const u32x4* fetched[kAtOnce];
      u32x4 values[kAtOnce];
      GRU_UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        const int packet = first + i * Traits::kThreads;
        fetched[i] = from + (packet < kCount ? packet : first);
      }
      failed = !wait_for_triples(values, fetched, tag, limit);
      GRU_UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        const int packet = first + i * Traits::kThreads;
        if (packet >= kCount) continue;
        uint32_t* const to = dgates + packet / kWords * Traits::kPitch + packet % kWords;
        store_shared(to, values[i].x);
        store_shared(to + kWords, values[i].y);
        store_shared(to + 2 * kWords, values[i].z);
      }
    }
    return !GRU_FAULT(no_barrier_after_packets, block_barrier_or(failed), failed);
  }

  // Sends those of a pair of the block's, which are for step s.
  GRU_DEVICE void send(const BwdPair<typename Traits::T>& pair, const GateGrads<float> (&grads)[2], int s) {
    using Words = PairWords<typename Traits::Operand>;
    if (pair.row >= Traits::kRows) return;
    const int buffer = GRU_FAULT(one_packet_buffer, s % 2, 0);
    u32x4* const to = packets + (buffer * Traits::kRows + pair.row) * Traits::kWords +
                      (unit0 + pair.unit) / kValuesPerWord<typename Traits::T>;
    const Words r = Words::of(grads[0].r, grads[1].r), z = Words::of(grads[0].z, grads[1].z),
                q = Words::of(grads[0].q, grads[1].q);
    GRU_UNROLL
    for (int w = 0; w < Words::count; ++w) {
      store_triple(to + w, r.word[w], z.word[w], q.word[w], static_cast<uint32_t>(s));
    }
  }
};

// Adds to d, by gate, so that one mma need not wait for another, the products of the warp's tiles with kRows rows of
// the gate gradients, where tile and the next of a gate begin at word column_of(gate, tile).
template <typename Traits, int kRows, typename Weights, typename ColumnOf>
GRU_DEVICE void multiply_gates(float (&d)[3][kRows / 8][4], const Weights& weights, const uint32_t* rows,
                               const ColumnOf& column_of) {
  using Operand = typename Traits::Operand;
  constexpr int kPitch = Traits::kPitch;
  const int lane = thread_index() % kWarpSize;
  FmaSums<1, kRows> products;  // of all gates, without tensor cores
  GRU_UNROLL
  for (int tile = 0; tile < Traits::kTiles; tile += 2) {
    GRU_UNROLL
    for (int gate = 0; gate < 3; ++gate) {
      uint32_t a[1][2][4];
      GRU_UNROLL
      for (int k = 0; k < 2; ++k) weights.load(a[0][k], gate, tile + k);
      if constexpr (kOnFmaUnits<Operand>) {
        products.add(a, rows + column_of(gate, tile), kPitch, lane % 4);
      } else {
        uint32_t b[kRows / 8][4];
        GRU_UNROLL
        for (int n = 0; n < kRows / 8; ++n)
          load_operand(b[n], rows + n * 8 * kPitch + column_of(gate, tile), kPitch, lane);
        GRU_UNROLL
        for (int k = 0; k < 2; ++k) {
          GRU_UNROLL
          for (int n = 0; n < kRows / 8; ++n) mma<Operand>(d[gate][n], a[0][k], b[n][2 * k], b[n][2 * k + 1]);
        }
      }
    }
  }
  if constexpr (kOnFmaUnits<Operand>) {
    GRU_UNROLL
    for (int n = 0; n < kRows / 8; ++n) products.add_to(d[0][n], 0, n, lane % 4);
  }
}

// The warp's part of the sum over the gate rows, of all rows of the tile, to the sums of its team.
template <typename Traits>
GRU_DEVICE void multiply_grads(float* sums, const WeightTiles<3, Traits::kRegisterTiles, Traits::kSharedTiles>& weights,
                               const uint32_t* dgates, const TeamThread<Traits>& self) {
  // A stage has kStageTiles tiles of every part.
  const auto column_of = [&](int gate, int tile) {
    constexpr int kStageTiles = Traits::kStageTiles;
    const int stage = tile / kStageTiles * Traits::kTeamWarps + self.part;
    return gate * Traits::kWords + (stage * kStageTiles + tile % kStageTiles) * 8;
  };
  GRU_NO_UNROLL
  for (int pass = 0; pass < Traits::kRows; pass += Traits::kPassRows) {
    constexpr int kColumns = Traits::kPassRows / 8;  // of D tiles
    float d[3][kColumns][4] = {};
    multiply_gates<Traits, Traits::kPassRows>(d, weights, dgates + pass * Traits::kPitch, column_of);
    GRU_UNROLL
    for (int n = 0; n < kColumns; ++n) {
      float sum[4];
      GRU_UNROLL
      for (int i = 0; i < 4; ++i) sum[i] = d[0][n][i] + d[1][n][i] + d[2][n][i];
      const int row = self.part * Traits::kRows + pass + n * 8;
      store_sum_tile(sums + row * Traits::kSumPitch, Traits::kSumPitch, sum);
    }
  }
}

template <typename Traits>
GRU_DEVICE void gru_group_bwd(const PersistentBwdParams<typename Traits::T>& p) {
  using T = typename Traits::T;
  constexpr int kRows = Traits::kRows, kSumPitch = Traits::kSumPitch, kPairs = Traits::kPairs;

  const TeamThread<Traits> self(p);
  const BlockWork& work = self.work;
  const int steps = p.lengths ? load_global(p.lengths + work.row0) : p.T;  // the first row of a tile has the most
  const bool reverse = work.direction == 1;
  float* const sums = reinterpret_cast<float*>(shared_memory() + Traits::kSumOffset) +
                      self.team * (Traits::kTeamWarps * kRows * kSumPitch);  // (parts, rows, kSumPitch)

  GradExchange<Traits> exchange(p, self);
  WeightTiles<3, Traits::kRegisterTiles, Traits::kSharedTiles> weights;
  load_group_bwd_weights(weights, p, self, exchange.dgates);

  BwdPair<T> own[kPairs];
  GRU_UNROLL
  for (int e = 0; e < kPairs; ++e) {
    const int i = self.part * kWarpSize + self.lane + e * Traits::kTeamThreads;
    own[e].begin(p, work, kRows, i / 8, self.team * 16 + i % 8 * 2);
  }

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
      failed = !exchange.wait(s, p.wait_limit);
      if (failed) break;
      multiply_grads<Traits>(sums, weights, exchange.dgates, self);
      GRU_FAULT(no_block_barrier, block_barrier(), void());
      GRU_UNROLL
      for (int e = 0; e < kPairs; ++e) {
        auto& pair = own[e];
        if (pair.row >= kRows) continue;
        pair.add(sum_of_parts<Traits::kTeamWarps>(sums + pair.row * kSumPitch + pair.unit - self.team * 16,
                                                  kRows * kSumPitch));
      }
    }
    if (s == steps) break;

    T* const dgates_of_step = rows_of_step(p, p.dgates[work.direction], work, {t, row});
    const auto& h_prev = p.h_prev[work.direction];
    T* const h_prev_of_step = h_prev.data ? rows_of_step(p, h_prev, work, {t, row}) : nullptr;
    GRU_UNROLL
    for (int e = 0; e < kPairs; ++e) {
      GateGrads<float> grads[2] = {};
      own[e].differentiate(t, grads);
      exchange.send(own[e], grads, s + 1);  // others wait for these: they go first
      own[e].store_step(p, work, t, dgates_of_step, h_prev_of_step, RoundedGrads<T>::of(grads), own[e].loaded[5]);
    }
    row = row_before;
    row_before = row_to_come;
  }

  failed = block_barrier_or(failed);
  store_bwd_results<kRows, Traits::kUnits, Traits::kThreads>(p, work, self.cluster, failed, own,
                                                             reinterpret_cast<float*>(exchange.dgates));
}

template <typename Traits>
GRU_KERNEL(Traits::kThreads, 1)
gru_group_bwd_kernel(const PersistentBwdParams<typename Traits::T> p) {
  if constexpr (kHasAsyncCopies) gru_group_bwd<Traits>(p);
}

}  // namespace device
}  // namespace gru_ext
