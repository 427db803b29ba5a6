// The recurrence backwards, all steps of a layer and both directions in one launch: a cluster of C blocks keeps the
// recurrent weights R (3H, H) in registers and shared memory, and works through the steps of a tile of rows.
//
//     d  = dL/dh' + dy                       dn = d * (1 - z) * (1 - n^2)        dz = d * (h - n) * z * (1 - z)
//                                            dr = dn * q * r * (1 - r)           dq = dn * r
//     dL/dh = d * z + R_r' dr + R_z' dz + R_n' dq
//
// Grid: E * D * tiles clusters of C blocks. Block `rank` of a cluster owns H / C hidden units, and of each the same
// three rows of R as forward. It has all it needs for the gate gradients of its units; it multiplies them into all H
// units of dL/dh, and sends each block of the cluster the part of the sum that belongs to that block's units.
//
//   1. A thread computes the gate gradients of its pairs of units; they go, rounded to the operand type, to shared
//      memory.                                                                                barrier of the block
//   2. mma: (16 units of dL/dh) x (the block's gate rows) x (rows of the tile). The transpose of R is the A operand, in
//      registers as far as it fits; the gate gradients are the B operand, by ldmatrix.
//   3. Neighbouring threads exchange halves, so that each has two units of two rows, 16 bytes, and send them.
//   4. While they are on their way: loads of the next step, stores of this one.
//   5. Wait until the parts of dL/dh for the own units have come from all blocks.             mbarrier
//   6. A thread adds the parts of its pairs, in the order of the blocks.
// After the last step the parts that come are dL/dh0. Nothing is sent of rows beyond the batch.
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
  static constexpr int kUnits = Hidden / C_;  // of a block
  // Where there are more warps than tiles of 16 units, they share out the gate rows too.
  static constexpr int kSlices = Warps * 16 > Hidden ? Warps * 16 / Hidden : 1;
  static constexpr int kUnitTiles = Hidden * kSlices / 16 / Warps;   // A tiles of a warp in the direction of H
  static constexpr int kTileValues = 8 * kValuesPerWord<T>;          // gate rows in a tile
  static constexpr int kTiles = 3 * kUnits / kTileValues / kSlices;  // A tiles of a warp, of the gate rows
  static constexpr int kSharedTiles = kTiles - RegisterTiles;
  static constexpr int kPassRows = Rows < 16 || kOnFmaUnits<Operand> ? 8 : 16;  // whose sums are in registers at a time
  static constexpr int kPairs = (kUnits / 2 * Rows + kThreads - 1) / kThreads;  // of a thread
  // Where a thread's pairs are all of one row, they are kPairUnits units apart, and one place in memory tells of all.
  static constexpr int kPlaces = kThreads % (8 * Rows) == 0 ? 1 : kPairs;
  static constexpr int kPairUnits = kThreads / (8 * Rows) * 16;
  // Words between rows of dgates: tiles in twos, for ldmatrix, which meets every bank once.
  static constexpr int kPitch = (kSlices * kTiles + kTiles % 2) * 8 + 4;
  static constexpr int kPartPitch = 2 * Rows + 4;  // floats between pairs of units: loads meet every bank once
  // Gate rows that are on their way from global memory to registers at a time.
  static constexpr int stage_rows(int rows) {
    return rows % 32 || rows * (Hidden / kValuesPerWord<T> + 4) * 4 <= 72 * 1024 ? rows : stage_rows(rows / 2);
  }
  static constexpr int kStageRows = stage_rows(kUnits);

  static constexpr int kParts = C_ * kSlices;                  // of dL/dh
  static constexpr int kPartFloats = kUnits / 2 * kPartPitch;  // of one
  static constexpr int kStageBytes = kStageRows * (Hidden / kValuesPerWord<T> + 4) * 4;
  static constexpr int kPartBytes = 2 * kParts * kPartFloats * 4;
  static constexpr int kDgatesBytes = 2 * Rows * kPitch * 4;
  static constexpr int kBiasBytes = 4 * Rows * kUnits * 4;  // when the steps are done
  static constexpr int max(int a, int b) { return a > b ? a : b; }
  static constexpr int kOverflowBytes = Warps * kUnitTiles * kSharedTiles * kWarpSize * 16;  // of the weights
  static constexpr int kMbarrierOffset = kOverflowBytes;
  static constexpr int kDgatesOffset = kMbarrierOffset + 2 * 8;
  static constexpr int kPartOffset = kDgatesOffset + kDgatesBytes;
  static constexpr int kSharedBytes = kDgatesOffset + max(kStageBytes, kDgatesBytes + max(kPartBytes, kBiasBytes));

  static_assert(C_ >= 1 && C_ <= 16, "a cluster has at most 16 blocks");
  static_assert(Hidden % (16 * C_) == 0 && Hidden * kSlices % (16 * Warps) == 0, "whole tiles of 16 units");
  static_assert(kSlices == 1 || kTiles % 2 == 0, "ldmatrix loads two tiles of the gate gradients at a time");
  static_assert(3 * kUnits % (kTileValues * kSlices) == 0, "slices of the same size");
  static_assert(kUnits % kStageRows == 0 && kStageRows % 16 == 0, "whole stages");
  static_assert(Rows == 8 || Rows % 16 == 0, "the tensor core takes 8 rows, a pass 16");
  static_assert(RegisterTiles >= 0 && RegisterTiles <= kTiles, "register tiles");
  static_assert(kDgatesOffset % 16 == 0 && kDgatesBytes % 16 == 0 && kPartPitch % 4 == 0, "alignment");
  static_assert(kSharedBytes <= (C_ == 1 ? 163 : 227) * 1024, "the shared memory of a block, sm_80 and sm_90");
};

// A thread: where it is in its block, and what the block works on.
template <typename Traits>
struct BwdThread : ThreadPlace {
  int warp, slice;  // of those that have the same gate rows; which gate rows
  int rank;         // of the block in its cluster
  int cluster;      // of the call
  int rows;         // of the tile that the batch has
  BlockWork work;

  GRU_DEVICE explicit BwdThread(const PersistentBwdParams<typename Traits::T>& p) {
    constexpr int C = Traits::kC, kRows = Traits::kRows;
    warp = thread / kWarpSize % (Traits::kWarps / Traits::kSlices);
    slice = Traits::kSlices == 1 ? 0 : thread / kWarpSize / (Traits::kWarps / Traits::kSlices);
    rank = C == 1 ? 0 : cluster_rank();
    cluster = block_index() / C;
    work = work_of(p, cluster, kRows, rank * Traits::kUnits);
    rows = clamp(p.B - work.row0, 0, kRows);
  }

  // The tile of 16 units of dL/dh that is the warp's m-th. Blocks begin at their own, so that they send to different
  // blocks at a time.
  GRU_DEVICE int tile_of_h(int m) const {
    return (warp * Traits::kUnitTiles + m + work.unit0 / 16) % (Traits::kHidden / 16);
  }
};

// The parts of dL/dh that a block has from all blocks of its cluster, of each one for every slice: (2, kParts, kUnits /
// 2, kPartPitch) in shared memory, of even and odd steps, with two units of every row.
template <typename Traits>
struct PartExchange {
  static constexpr int C = Traits::kC;
  float* parts;
  uint64_t* mbarriers;  // one for each buffer
  int leads;            // whether this thread is the first of the block
  int rows;             // that are sent: those that the batch has, in twos
  int place;            // see place_of

  GRU_DEVICE explicit PartExchange(const BwdThread<Traits>& self)
      : parts(reinterpret_cast<float*>(shared_memory() + Traits::kPartOffset)),
        mbarriers(reinterpret_cast<uint64_t*>(shared_memory() + Traits::kMbarrierOffset)),
        leads(anew(self.thread == 0)),
        rows((self.rows + 1) / 2 * 2),
        place(anew(place_of(self))) {}

  // All threads call each of these: `begin` first, `meet` before the first step, `wait` for the parts of step s, which
  // returns whether they have come, and `end` when they are done.
  GRU_DEVICE void begin() {
    if constexpr (C > 1) {
      if (!leads) return;
      GRU_UNROLL
      for (int i = 0; i < 2; ++i) {
        mbarrier_init(mbarriers + i, 1);
        mbarrier_arrive_expect(mbarriers + i, bytes_of_step());
      }
      mbarrier_init_fence();
    }
  }

  GRU_DEVICE void meet() {
    if constexpr (C > 1) {
      cluster_barrier();
    } else {
      block_barrier();
    }
  }

  GRU_DEVICE bool wait(int s, uint32_t limit) {
    if constexpr (C > 1) return mbarrier_wait(mbarriers + s % 2, (s - 1) / 2 % 2, limit);
    block_barrier();
    return true;
  }

  // What is sent for step s + 2 may come before it is expected.
  GRU_DEVICE void expect_next(int s) {
    if (C > 1 && leads) mbarrier_arrive_expect(mbarriers + s % 2, bytes_of_step());
  }

  GRU_DEVICE void end() {
    if constexpr (C > 1) cluster_barrier();
  }

  // That a block receives.
  GRU_DEVICE int bytes_of_step() const { return Traits::kSlices * Traits::kHidden * rows * 4; }

  // The sum of the parts of a pair of the block's, in the order of the blocks.
  GRU_DEVICE Pair<float> sum_of(const BwdPair<typename Traits::T>& pair, int s) const {
    return sum_of_parts<Traits::kParts>(
        parts + s % 2 * Traits::kParts * Traits::kPartFloats + pair.unit / 2 * Traits::kPartPitch + pair.row * 2,
        Traits::kPartFloats);
  }

  // A D tile, 16 units of 8 rows, to what its threads send; all threads of a warp call it. Those whose g differ in the
  // last bit exchange halves: the even one gets units g and g + 1, the odd one units g + 7 and g + 8, both of rows 2c
  // and 2c + 1.
  GRU_DEVICE void exchange_halves(float (&d)[4], const BwdThread<Traits>& self) const {
    const bool odd = self.g % 2 == 1;
    const float other[2] = {shuffle_xor(odd ? d[0] : d[2], 4), shuffle_xor(odd ? d[1] : d[3], 4)};
    const float packet[4] = {odd ? other[0] : d[0], odd ? d[2] : other[0], odd ? other[1] : d[1],
                             odd ? d[3] : other[1]};
    GRU_UNROLL
    for (int i = 0; i < 4; ++i) d[i] = packet[i];
  }

  // Whether the batch has any of the rows that this thread sends of a D tile that begins at `row`.
  GRU_DEVICE bool has_rows(int row, const BwdThread<Traits>& self) const { return row + 2 * self.c < rows; }

  // Sends what exchange_halves has left, of the tile that begins at unit0 of block `to` and at `row`.
  GRU_DEVICE void send(const float (&d)[4], int to, int unit0, int row, int s) {
    const u32x4 packet = {float_bits(d[0]), float_bits(d[1]), float_bits(d[2]), float_bits(d[3])};
    const int buffer = GRU_FAULT(one_part_buffer, s % 2, (s + 1) % 2);
    float* const at =
        parts + buffer * (Traits::kParts * Traits::kPartFloats) + place + unit0 / 2 * Traits::kPartPitch + row * 2;
    if constexpr (C == 1) {
      store_shared(reinterpret_cast<u32x4*>(at), packet);
    } else {
      store_async(at, mbarriers + s % 2, to, packet);
    }
  }

 private:
  // In a buffer, where this thread sends what it has of a tile that begins at the first unit and row.
  GRU_DEVICE static int place_of(const BwdThread<Traits>& self) {
    const int unit = self.g % 2 == 1 ? self.g + 7 : self.g;
    return (self.rank * Traits::kSlices + self.slice) * Traits::kPartFloats + unit / 2 * Traits::kPartPitch +
           self.c * 4;
  }
};

// A tiles of this warp, by way of shared memory that is free before the first step. Beyond H they are zero.
template <typename Traits>
GRU_DEVICE void load_bwd_weights(WeightTiles<Traits::kUnitTiles, Traits::kRegisterTiles, Traits::kSharedTiles>& weights,
                                 const PersistentBwdParams<typename Traits::T>& p, const BwdThread<Traits>& self,
                                 uint32_t* staged) {
  using T = typename Traits::T;
  using Operand = typename Traits::Operand;
  constexpr int kStagePitch = Traits::kHidden / kValuesPerWord<T> + 4, kUnits = Traits::kUnits;
  const int H = p.H, lane = self.lane, c = self.c;
  GRU_UNROLL
  for (int first = 0; first < 3 * kUnits; first += Traits::kStageRows) {
    const int unit = self.work.unit0 + first % kUnits;
    stage_weights<Traits::kStageRows, Traits::kHidden, Traits::kHidden, Traits::kThreads>(
        staged, weights_of(p, self.work) + static_cast<int64_t>(first / kUnits * H + unit) * H, H, H - unit,
        /*first=*/0, p.aligned);
    block_barrier();
    GRU_UNROLL
    for (int m = 0; m < Traits::kUnitTiles; ++m) {
      GRU_UNROLL
      for (int i = 0; i < Traits::kStageRows; i += Traits::kTileValues) {
        const int tile = (first + i) / Traits::kTileValues;
        if (tile / Traits::kTiles != self.slice) continue;
        uint32_t a[4];
        if constexpr (kValuesPerWord<T> == 2) {
          ldmatrix_x4_transposed(
              a, staged + (i + lane / 16 * 8 + lane % 8) * kStagePitch + self.tile_of_h(m) * 8 + lane / 8 % 2 * 4);
        } else {
          GRU_UNROLL
          for (int j = 0; j < 4; ++j) {
            const int row = kOnFmaUnits<Operand> ? i / 16 * 16 + 4 * c + i / 8 % 2 * 2 + j / 2 : i + c + j / 2 * 4;
            a[j] = load_shared(staged + row * kStagePitch + self.tile_of_h(m) * 16 + self.g + j % 2 * 8);
          }
          to_operand<Operand>(a);
        }
        weights.keep(m, tile % Traits::kTiles, a);
      }
    }
    block_barrier();
  }
}

// The gate gradients of a pair to shared memory, rounded to operands; `dgates`: of the step, (rows, kPitch), r, z and
// q.
template <typename Traits>
GRU_DEVICE void store_operand(uint32_t* dgates, const BwdPair<typename Traits::T>& pair,
                              const GateGrads<float> (&grads)[2]) {
  using Words = PairWords<typename Traits::Operand>;
  constexpr int kValues = kValuesPerWord<typename Traits::T>;
  if (pair.row >= Traits::kRows) return;
  uint32_t* const to = dgates + pair.row * Traits::kPitch + pair.unit / kValues;
  const Words words[3] = {Words::of(grads[0].r, grads[1].r), Words::of(grads[0].z, grads[1].z),
                          Words::of(grads[0].q, grads[1].q)};
  GRU_UNROLL
  for (int i = 0; i < 3 * Words::count; ++i) {
    const int gate = i / Words::count, w = i % Words::count;
    store_shared(to + gate * (Traits::kUnits / kValues) + w, words[gate].word[w]);
  }
}

// The parts of dL/dh that the block's gate gradients give, each sent to the block whose units it is of.
template <typename Traits>
GRU_DEVICE void multiply_grads(
    PartExchange<Traits>& exchange,
    const WeightTiles<Traits::kUnitTiles, Traits::kRegisterTiles, Traits::kSharedTiles>& weights,
    const uint32_t* dgates, const BwdThread<Traits>& self, int s) {
  constexpr int kColumns = Traits::kPassRows / 8, kBlockTiles = Traits::kUnits / 16;
  GRU_NO_UNROLL
  for (int pass = 0; pass < Traits::kRows; pass += Traits::kPassRows) {
    float d[Traits::kUnitTiles][kColumns][4] = {};
    multiply<typename Traits::Operand, Traits::kTiles, Traits::kPassRows>(
        d, weights, /*first=*/0, dgates + pass * Traits::kPitch, Traits::kPitch,
        [&](int tile) { return (self.slice * Traits::kTiles + tile) * 8; });
    GRU_UNROLL
    for (int n = 0; n < kColumns; ++n) {
      GRU_UNROLL
      for (int m = 0; m < Traits::kUnitTiles; ++m) exchange.exchange_halves(d[m][n], self);
      if (!exchange.has_rows(pass + n * 8, self)) continue;
      GRU_UNROLL
      for (int m = 0; m < Traits::kUnitTiles; ++m) {
        const int tile = self.tile_of_h(m);
        exchange.send(d[m][n], tile / kBlockTiles, tile % kBlockTiles * 16, pass + n * 8, s);
      }
    }
  }
}

template <typename Traits>
GRU_DEVICE void gru_cluster_bwd(const PersistentBwdParams<typename Traits::T>& p) {
  using T = typename Traits::T;
  constexpr int kRows = Traits::kRows, kPitch = Traits::kPitch;
  constexpr int kUnits = Traits::kUnits, kPairs = Traits::kPairs, kPlaces = Traits::kPlaces;

  const BwdThread<Traits> self(p);
  const BlockWork& work = self.work;
  const int steps = p.lengths ? load_global(p.lengths + work.row0) : p.T;  // the first row of a tile has the most
  const bool reverse = work.direction == 1, packed = p.offsets != nullptr;
  // (2, rows, kPitch): r, z, q
  uint32_t* const dgates = reinterpret_cast<uint32_t*>(shared_memory() + Traits::kDgatesOffset);

  PartExchange<Traits> exchange(self);
  exchange.begin();
  WeightTiles<Traits::kUnitTiles, Traits::kRegisterTiles, Traits::kSharedTiles> weights;
  load_bwd_weights(weights, p, self, dgates);
  // multiply loads tiles in twos: the one beyond an odd number is never multiplied, but it is read.
  if constexpr (Traits::kTiles % 2 == 1) {
    for (int i = self.thread; i < 2 * kRows * 8; i += Traits::kThreads) {
      store_shared(dgates + i / 8 * kPitch + Traits::kTiles * 8 + i % 8, 0u);
    }
  }

  BwdPair<T> own[kPairs];
  BwdPlaces<T> places[kPlaces];
  GRU_UNROLL
  for (int e = 0; e < kPairs; ++e) {
    const int i = self.thread + e * Traits::kThreads;
    own[e].begin(p, work, kRows, i / (kUnits / 2) < kRows ? i / 8 % kRows : kRows, (i / (8 * kRows) * 8 + i % 8) * 2);
  }

  const auto row_of_step = [&](int s) { return s < steps ? first_row(p, reverse ? s : steps - 1 - s) : 0; };
  const auto time_of_step = [&](int s) { return reverse ? s : steps - 1 - s; };
  GRU_UNROLL
  for (int e = 0; e < kPairs; ++e) {
    own[e].load_step(p, work, {time_of_step(0), row_of_step(0)}, row_of_step(1));
    if (e < kPlaces) {
      places[e].begin(p, work, own[e], {time_of_step(0), row_of_step(0)}, {time_of_step(1), row_of_step(1)});
    }
  }
  exchange.meet();

  const bool has_h_prev = p.h_prev[work.direction].data != nullptr;
  bool failed = false;
  GRU_NO_UNROLL
  for (int s = 0; s < steps; ++s) {
    at_step(s);
    const int t = time_of_step(s);
    const int buffer = GRU_FAULT(one_dgates_buffer, s % 2, 0);
    uint32_t* const operand = dgates + buffer * kRows * kPitch;
    RoundedGrads<T> rounded[kPairs];
    LoadedPair<T> h[kPairs];
    GRU_UNROLL
    for (int e = 0; e < kPairs; ++e) {
      GateGrads<float> grads[2] = {};
      own[e].differentiate(t, grads);
      store_operand<Traits>(operand, own[e], grads);
      rounded[e] = RoundedGrads<T>::of(grads);
      h[e] = own[e].loaded[5];
    }
    // Loaded long before they are used, but not beside the loads of the step, for which they would wait.
    PackedRows rows;
    if (packed) rows = {row_of_step(s), row_of_step(s + 1), row_of_step(s + 2)};
    failed = GRU_FAULT(no_block_barrier, block_barrier_or(failed), failed);
    if (failed) break;
    multiply_grads<Traits>(exchange, weights, operand, self, s + 1);
    if (s > 0) exchange.expect_next(s);

    // Others wait for the parts of dL/dh: what they do not need comes after them.
    const BwdDistance distance =
        packed ? BwdDistance::packed(p, work.direction, rows.here - rows.before, rows.next - rows.here)
               : BwdDistance::unpacked(p, work.direction);
    with_pairing(p.paired, [&](bool paired) {
      GRU_UNROLL
      for (int i = 0; i < kPlaces; ++i) places[i].advance_loads(distance);
      GRU_UNROLL
      for (int e = 0; e < kPairs && s + 1 < steps; ++e) {
        const auto& at = places[e % kPlaces];
        const int next = time_of_step(s + 1), beyond = e / kPlaces * Traits::kPairUnits;
        own[e].load_step(at.gates + beyond, p.dy.data ? at.dy + beyond : nullptr,
                         own[e].state_before(p, work, next, at.h + beyond), next, p.H, paired);
      }
      GRU_UNROLL
      for (int e = 0; e < kPairs; ++e) {
        const auto& at = places[e % kPlaces];
        const int beyond = e / kPlaces * Traits::kPairUnits;
        own[e].store_step(at.dgates + beyond, has_h_prev ? at.h_prev + beyond : nullptr, t, p.H, rounded[e], h[e],
                          paired);
      }
      GRU_UNROLL
      for (int i = 0; i < kPlaces; ++i) places[i].advance_stores(distance);
    });

    failed = !exchange.wait(s + 1, p.wait_limit);
    GRU_UNROLL
    for (int e = 0; e < kPairs; ++e) {
      if (own[e].row < self.rows) own[e].add(exchange.sum_of(own[e], s + 1));
    }
  }

  // All parts have come and, after this barrier, been read.
  failed = block_barrier_or(failed);
  store_bwd_results<kRows, kUnits, Traits::kThreads>(p, work, self.cluster, failed, own, exchange.parts);
  exchange.end();
}

template <typename Traits>
GRU_KERNEL(Traits::kThreads, 1)
gru_cluster_bwd_kernel(const PersistentBwdParams<typename Traits::T> p) {
  constexpr bool kServes = Traits::kC == 1 ? kHasAsyncCopies : kHasClusters;
  if constexpr (kServes) gru_cluster_bwd<Traits>(p);
}

}  // namespace device
}  // namespace gru_ext
