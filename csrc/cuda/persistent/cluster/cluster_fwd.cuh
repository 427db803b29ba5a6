// The recurrence, all steps of a layer and both directions in one launch: a cluster of C blocks keeps the recurrent
// weights R (3H, H) in registers and shared memory, and works through the steps of a tile of rows of the batch.
//
//     r  = sigmoid(a_x[r] + R_r h + b_hr)        q  = R_n h + b_hn
//     z  = sigmoid(a_x[z] + R_z h + b_hz)        n  = tanh(a_x[n] + r * q)        h' = n + z * (h - n)
//
// Grid: E * D * tiles clusters of C blocks. Block `rank` of a cluster owns H / C hidden units; of each, the three rows
// of R and the state of every row of the tile. Each step it multiplies its rows of R by the whole state h, which it has
// in shared memory, and sends its units of h' to all blocks of the cluster.
//
// Warps: those of a block form teams, one for every 16 units; the warps of a team share out the sum over h.
//   1. Wait until a wave of h has come.                                                       mbarrier
//   2. mma: (16 units of a gate) x (its part of the wave) x (rows of the tile), three gates. R is the A operand, in
//      registers as far as it fits; h the B operand, by ldmatrix. Then the next wave.
//   3. A thread then has sums over its part of h, in pairs of units of a row, as many of each gate. It keeps those of
//      some pairs, and hands the others to the warps that keep those.                         barrier of the team
//   4. It adds those of its pairs that it has been handed, applies the gates, and sends its pairs of h', 16 bytes at a
//      time, to the blocks of the first wave. h itself stays in its registers, in float32.
//   5. While they are on their way: loads of the next step, the other wave, stores of this one.
//
// Waves. What a block receives in a step takes the network about as long as the products take. So a cluster's blocks,
// of which there are many enough, send first to half of them, and everybody begins to multiply by what has come. A
// block has its own h first in a row, then that of the block after it, and so on in a ring: all blocks send to others
// at a time, and the first half of every row comes first. The columns of R are in the same order.
//
// Shared memory is written by: h, by asynchronous stores of the whole cluster (the first, before the loop, by the block
// itself); sums, by the team that reads them; overflow weights, by the warp that reads them.
//
// Why so few barriers are enough. h has two buffers, by the parity of the step. The buffer of h(s + 1) was last read in
// step s - 1. To write it, a block must hold all of h(s), and a team sends its part of h(s) only after its warps have
// finished reading in step s - 1. So when a block writes, every block has read. For the same reason a team may write
// its sums of step s: it read those of step s - 1 before it sent h(s). With C = 1 there is no mbarrier; a block barrier
// takes its place.
// The cluster barrier before the loop: no store may come before the mbarriers are made and the first h is in place.
// The one after it: no block may leave while another, after a wait that took too long, still sends to it.
//
// Where R is too large for a cluster, or the GPU has none, the C blocks are a group: group/group_fwd.cuh.
//
// A wait that takes too long sets `error`; the team then leaves the loop, others follow as their waits end, and all
// meet at the last barrier.
#pragma once

#include "cuda/persistent/cluster/state_exchange.cuh"
#include "cuda/persistent/fwd_pair.cuh"
#include "cuda/persistent/tiles.cuh"

namespace gru_ext {
namespace device {

// Name: of the types, see TypesOf. Hidden: the largest H, a multiple of 16 C. RegisterTiles: of the A tiles of a warp,
// those that are in registers; the others are in shared memory.
template <typename Name, int Hidden, int C_, int Rows, int Warps, int RegisterTiles,
          Exchange kExchange_ = C_ == 1 ? Exchange::none : Exchange::cluster>
struct GruClusterFwdTraits {
  using T = typename TypesOf<Name>::Tensor;
  using Operand = typename TypesOf<Name>::Operand;
  using Math = typename TypesOf<Name>::Math;
  static constexpr Exchange kExchange = kExchange_;
  static constexpr int kHidden = Hidden, kC = C_, kRows = Rows, kWarps = Warps, kRegisterTiles = RegisterTiles;
  static constexpr int kThreads = Warps * kWarpSize;
  static constexpr int kUnits = Hidden / C_;         // of a block
  static constexpr int kTeams = kUnits / 16;         // of warps
  static constexpr int kTeamWarps = Warps / kTeams;  // that share out the sum
  static constexpr int kTeamThreads = kTeamWarps * kWarpSize;
  static constexpr int kWords = Hidden / kValuesPerWord<T>;  // operand words of a row of h
  static constexpr int kTiles = kWords / 8 / kTeamWarps;     // A tiles of a warp and gate
  static constexpr int kSharedTiles = kTiles - RegisterTiles;
  static constexpr int kPassRows = Rows < 16 || kOnFmaUnits<Operand> ? 8 : 16;  // whose sums are in registers at a time
  static constexpr int kColumns = kPassRows / 8;                                // D tiles of a gate in a pass
  static constexpr int kPitch = kWords + 4;  // words between rows of h: ldmatrix meets every bank once

  // The products leave a thread of every part sums of 2 kColumns pairs a pass, and of Rows / 4 pairs in all: units 2g
  // and 2g + 1 of its team, rows row_of_place(place) + 2c. Each pair is kept by a thread of one part; where there are
  // more parts than pairs, those beyond kKeepers keep none.
  static constexpr int kPairs = (Rows / 4 + kTeamWarps - 1) / kTeamWarps;  // that a thread keeps
  static constexpr int kKeepers = Rows / 4 / kPairs;                       // parts
  static constexpr bool kAllKeep = kKeepers == kTeamWarps;
  static GRU_DEVICE constexpr int row_of_place(int place) { return place / 2 * 8 + place % 2; }
  // Registers of a thread beside those of weights, sums and operand. Where there are few, h comes in one wave, and what
  // is the same in all steps is worked out in each.
  static constexpr int kRegisters = kThreads <= 256 ? 255 : 65536 / kThreads / 8 * 8;
  static constexpr int kSpareRegisters =
      kRegisters - 12 * RegisterTiles - (kOnFmaUnits<Operand> ? 68 : 20) * (kPassRows / 8);
  static constexpr bool kHasSpareRegisters = kSpareRegisters >= 60, kKeepsDistance = kSpareRegisters >= 100;

  // Whether what a thread keeps is in its registers: where there is one pass, room, and B can have the rows in any
  // order, or nothing is handed over. And how many sums of a pair are in shared memory, of how many pairs side by side:
  // those of a D tile.
  static constexpr bool kKeepsSums =
      kPassRows == Rows && kSpareRegisters >= 56 && (!kOnFmaUnits<Operand> || kTeamWarps == 1);
  static constexpr int kHanded = kTeamWarps - kKeepsSums, kHandedPairs = kPairs > 1 ? 2 : 1;

  // Threads that have the same 16 bytes to send, to other blocks each; and whether h comes in two waves: where every
  // asynchronous store of half of the blocks is full, and their tiles come in twos.
  static constexpr int kSenders = 2 * kValuesPerWord<T>;
  static constexpr bool shares(int blocks) { return blocks % kSenders == 0 || kSenders % blocks == 0; }
  static constexpr bool kHalves =
      C_ % 2 == 0 && shares(C_ / 2 > 0 ? C_ / 2 : 1) && kPairs * (C_ / 2) % kSenders == 0 && kTiles % 4 == 0;
  static constexpr bool kInWaves =
      kExchange == Exchange::cluster && kHalves && kHasSpareRegisters && !kOnFmaUnits<Operand>;
  static constexpr int kWaves = kInWaves ? 2 : 1, kWaveBlocks = C_ / kWaves, kWaveTiles = kTiles / kWaves;

  // Tiles of a warp that are on their way from global memory to registers at a time; those of all parts side by side.
  static constexpr int stage_tiles(int tiles) {
    return tiles % 4 || kUnits * kTeamWarps * tiles * 32 <= 72 * 1024 ? tiles : stage_tiles(tiles / 2);
  }
  static constexpr int kStageTiles = stage_tiles(kWaveTiles);
  static constexpr int kStageColumns = kTeamWarps * kStageTiles * 8 * kValuesPerWord<T>;

  static constexpr int kStateBytes = Rows * kPitch * 4;  // of one of the two buffers
  static constexpr int kSumBytes = kTeams * (Rows / 4) * kHanded * 3 * kWarpSize * 8;
  static constexpr int kStageBytes = kUnits * (kStageColumns / kValuesPerWord<T> + 4) * 4;
  static constexpr int kOverflowBytes = Warps * 3 * kSharedTiles * kWarpSize * 16;  // of the weights
  static constexpr int kBiasOffset = kOverflowBytes;
  static constexpr int kMbarrierOffset = kBiasOffset + kTeamWarps * 3 * kUnits * 4;
  static constexpr int kStateOffset = kMbarrierOffset + 2 * kWaves * 8;
  static constexpr int kSumOffset = kStateOffset + 2 * kStateBytes;
  static constexpr int kSharedBytes =
      kStateOffset + (2 * kStateBytes + kSumBytes > kStageBytes ? 2 * kStateBytes + kSumBytes : kStageBytes);
  static constexpr int kWaveBytes = Rows * kWords * 4 / kWaves;  // of h: what a block receives
  static constexpr int kPackets = kExchange == Exchange::packets ? 2 * Rows * kWords : 0;  // of both buffers
  static constexpr int kPacketBytes = kPackets * 8;

  static_assert(C_ >= 1 && (kExchange == Exchange::packets || C_ <= 16), "a cluster has at most 16 blocks");
  static_assert(Hidden % (16 * C_) == 0, "a block owns whole tiles of 16 units");
  static_assert(Warps % kTeams == 0 && kTeams <= 15, "teams of equal size, a named barrier for each");
  static_assert((kTeamWarps & (kTeamWarps - 1)) == 0 && (Rows & (Rows - 1)) == 0, "sums are added in twos");
  static_assert(kWords % (16 * kTeamWarps) == 0, "ldmatrix loads two tiles of h at a time");
  static_assert(Rows == 8 || Rows % 16 == 0, "the tensor core takes 8 rows, a pass 16");
  static_assert(RegisterTiles >= 0 && RegisterTiles <= kTiles && RegisterTiles % 2 == 0, "register tiles in twos");
  static_assert(kStateOffset % 16 == 0 && kStateBytes % 16 == 0, "alignment of asynchronous stores and ldmatrix");
  static_assert(kTiles % kStageTiles == 0 && kStageTiles % 2 == 0, "whole stages, ldmatrix in twos");
  static_assert(kSharedBytes <= (C_ == 1 ? 163 : 227) * 1024, "the shared memory of a block, sm_80 and sm_90");
  static_assert(kPitch % 2 == 0 && kWords % 2 == 0, "packets are fetched in twos");
  static_assert(kExchange != Exchange::cluster || (shares(kWaveBlocks) && kTeamWarps > 1),
                "threads share out blocks evenly; at the barrier of the team they agree on a wait that failed");
};

// A tiles of this warp, by way of shared memory that is free before the first step. Beyond H they are zero. Row g of
// them is unit 2g of the team, row g + 8 unit 2g + 1.
template <typename Traits>
GRU_DEVICE void load_fwd_weights(WeightTiles<3, Traits::kRegisterTiles, Traits::kSharedTiles>& weights,
                                 const PersistentFwdParams<typename Traits::T>& p, const TeamThread<Traits>& self,
                                 uint32_t* staged) {
  using T = typename Traits::T;
  using Operand = typename Traits::Operand;
  constexpr int kStageTiles = Traits::kStageTiles, kColumns = Traits::kStageColumns;
  constexpr int kStagePitch = kColumns / kValuesPerWord<T> + 4;
  const int H = p.H, row = self.work.unit0, lane = self.lane;
  GRU_UNROLL
  for (int gate = 0; gate < 3; ++gate) {
    GRU_UNROLL
    for (int first = 0; first < Traits::kTiles; first += kStageTiles) {
      const int column = first / kStageTiles * kColumns;
      stage_weights<Traits::kUnits, kColumns, Traits::kHidden, Traits::kThreads>(
          staged, weights_of(p, self.work) + static_cast<int64_t>(gate * H + row) * H, H, H - row,
          self.unit_of_place(column), p.aligned);
      block_barrier();
      GRU_UNROLL
      for (int i = 0; i < kStageTiles; ++i) {
        uint32_t a[4];
        if constexpr (kOnFmaUnits<Operand>) {
          GRU_UNROLL
          for (int j = 0; j < 4; ++j) {
            const int column = (self.part * kStageTiles + i / 2 * 2) * 8 + 4 * self.c + i % 2 * 2 + j / 2;
            a[j] = load_shared(staged + (self.unit_of_pairs() + j % 2) * kStagePitch + column);
          }
        } else {
          const int unit = self.team * 16 + lane % 8 * 2 + lane / 8 % 2;
          ldmatrix_x4(a, staged + unit * kStagePitch + (self.part * kStageTiles + i) * 8 + lane / 16 * 4);
          to_operand<Operand>(a);
        }
        weights.keep(gate, first + i, a);
      }
      block_barrier();
    }
  }
}

// The biases of the block's units in float32, zero where there are none, and zeros for the other parts of the sum:
// (parts, 3, 2, kUnits / 2), even units first. Loaded side by side, the two of a pair would have to be moved apart.
template <typename Traits>
GRU_DEVICE void load_bias(float* bias, const PersistentFwdParams<typename Traits::T>& p, const BlockWork& work) {
  for (int i = thread_index(); i < Traits::kTeamWarps * 3 * Traits::kUnits; i += Traits::kThreads) {
    constexpr int kUnits = Traits::kUnits;
    const int gate = i / kUnits, unit = work.unit0 + i % (kUnits / 2) * 2 + i % kUnits / (kUnits / 2);
    const auto* const bias_hh = at_offset(p.bias_hh[work.direction], (int64_t{3} * work.member + gate) * p.H + unit);
    const bool exists = p.bias_hh[work.direction] != nullptr && gate < 3 && unit < p.H;
    store_shared(bias + i, exists ? to_acc(load_global(bias_hh)) : 0.0f);
  }
}

// The first h, all of it, as operand words.
template <typename Traits>
GRU_DEVICE void load_first_state(uint32_t* state, const PersistentFwdParams<typename Traits::T>& p,
                                 const TeamThread<Traits>& self) {
  using Words = PairWords<typename Traits::Operand>;
  constexpr int kPairsOfRow = Traits::kHidden / 2;
  const BlockWork& work = self.work;
  for (int i = thread_index(); i < Traits::kRows * kPairsOfRow; i += Traits::kThreads) {
    const int row = i / kPairsOfRow, place = i % kPairsOfRow * 2, unit = self.unit_of_place(place);
    const int count = p.h0 && work.row0 + row < p.B ? clamp(p.H - unit, 0, 2) : 0;
    const int64_t row_of_all = work.layer(p) * p.B + work.row0 + row;
    const auto h = load_pair(at_offset(p.h0, row_of_all * p.H + unit), count, p.paired);
    const Words words = Words::of(to_acc(h.first()), to_acc(h.second()));
    GRU_UNROLL
    for (int w = 0; w < Words::count; ++w) {
      store_shared(state + row * Traits::kPitch + place / kValuesPerWord<typename Traits::T> + w, words.word[w]);
    }
  }
}

// The sum of N, two and two, so that it has the same bits if the order is i ^ j instead of i, whatever j is.
template <int N, typename Sums>
GRU_DEVICE float sum_in_twos(const Sums* parts, int which) {
  if constexpr (N == 1) {
    return parts[0].sum[which];
  } else {
    return sum_in_twos<N / 2>(parts, which) + sum_in_twos<N / 2>(parts + N / 2, which);
  }
}

// The warp's sums of a pass, which begin with the biases, and what it is handed of those of its team's other warps.
//
// Places of pairs are counted through all passes. Where sums are kept, a part has its rows in an order in which those
// that it keeps come first: what part p has at the place i of that order is at place i ^ (p % kKeepers) kPairs. So the
// sums that it hands over are the same registers in every part.
template <typename Traits>
struct FwdSums {
  static constexpr int kColumns = Traits::kColumns, kPairs = Traits::kPairs, kKeepers = Traits::kKeepers;
  static constexpr int kAtOnce = Traits::kHandedPairs, kHanded = Traits::kHanded;
  struct alignas(8 * kAtOnce) Handed {
    float sum[2 * kAtOnce];  // the first unit of the pairs, then the second
  };
  float d[3][kColumns][4];
  Handed* handed;  // (teams, places / kAtOnce, kHanded, 3 gates, lanes) in shared memory

  GRU_DEVICE FwdSums() : handed(reinterpret_cast<Handed*>(shared_memory() + Traits::kSumOffset)) {}

  GRU_DEVICE void begin(const float* bias, const TeamThread<Traits>& self) {
    GRU_UNROLL
    for (int gate = 0; gate < 3; ++gate) {
      GRU_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int place = ((self.part * 3 + gate) * 2 + i) * (Traits::kUnits / 2) + self.unit_of_pairs() / 2;
        const float b = load_shared(bias + place);
        GRU_UNROLL
        for (int n = 0; n < kColumns; ++n) d[gate][n][2 * i] = d[gate][n][2 * i + 1] = b;
      }
    }
  }

  // By what the rows of a part's order are other rows: exclusive or.
  GRU_DEVICE static int order_of(const TeamThread<Traits>& self) {
    return Traits::kKeepsSums ? Traits::row_of_place(self.part % kKeepers * kPairs) : 0;
  }

  // Those of the pass that begins at `row`, but for what the warp keeps.
  GRU_DEVICE void hand_over(int row, const TeamThread<Traits>& self) const {
    GRU_UNROLL
    for (int i = 0; i < 2 * kColumns; i += kAtOnce) {
      int place = row / 4 + i, which = self.part;
      if constexpr (Traits::kKeepsSums) {
        if (i < kPairs && (Traits::kAllKeep || self.part < kKeepers)) continue;
        place = (self.part % kKeepers ^ i / kPairs) * kPairs + i % kPairs;
        which = self.part / kKeepers * kKeepers + i / kPairs - 1;
      }
      const int beyond = GRU_FAULT(store_out_of_shared, 0, Traits::kSharedBytes / 8);
      Handed* const to = at(self, place, which) + beyond;
      GRU_UNROLL
      for (int gate = 0; gate < 3; ++gate) store_shared(to + gate * kWarpSize, of(gate, i));
    }
  }

  // When all have handed over: R h + b_hh of the thread's pairs, of r, z and n.
  GRU_DEVICE void add_up(Pair<float> (&whole)[kPairs][3], const TeamThread<Traits>& self) const {
    GRU_UNROLL
    for (int e = 0; e < kPairs; e += kAtOnce) {
      GRU_UNROLL
      for (int gate = 0; gate < 3; ++gate) {
        Handed parts[Traits::kTeamWarps];
        if constexpr (Traits::kKeepsSums) parts[0] = of(gate, e);
        GRU_UNROLL
        for (int i = 0; i < kHanded; ++i) {
          parts[Traits::kKeepsSums + i] = load_shared(at(self, self.part * kPairs + e, i) + gate * kWarpSize);
        }
        GRU_UNROLL
        for (int i = 0; i < kAtOnce; ++i) {
          const auto sum = [&](int of) { return sum_in_twos<Traits::kTeamWarps>(parts, of); };
          whole[e + i][gate] = {sum(i), sum(kAtOnce + i)};
        }
      }
    }
  }

 private:
  // Of the pass, from that place on.
  GRU_DEVICE Handed of(int gate, int place) const {
    Handed sums;
    GRU_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      sums.sum[i] = d[gate][place / 2][(place + i) % 2];
      sums.sum[kAtOnce + i] = d[gate][place / 2][2 + (place + i) % 2];
    }
    return sums;
  }
  GRU_DEVICE Handed* at(const TeamThread<Traits>& self, int place, int which) const {
    const int of_places = (self.team * (Traits::kRows / 4) + place) / kAtOnce;
    return handed + (of_places * kHanded + which) * (3 * kWarpSize) + self.lane;
  }
};

// Waits for h of step s, and adds the warp's part of R h + b_hh, of all rows of the tile, to `own`, which has begun, or
// hands it over. Returns whether h has come, as far as this thread knows.
template <typename Traits>
GRU_DEVICE bool multiply_state(FwdSums<Traits>& own,
                               const WeightTiles<3, Traits::kRegisterTiles, Traits::kSharedTiles>& weights,
                               const float* bias, StateExchange<Traits>& exchange, int s, uint32_t limit,
                               const TeamThread<Traits>& self) {
  // A stage has kStageTiles tiles of every part.
  const auto column_of = [&](int tile) {
    constexpr int kStageTiles = Traits::kStageTiles;
    return ((tile / kStageTiles * Traits::kTeamWarps + self.part) * kStageTiles + tile % kStageTiles) * 8;
  };
  const uint32_t* const h = exchange.of_step(s);
  bool failed = false;
  GRU_NO_UNROLL
  for (int pass = 0; pass < Traits::kRows; pass += Traits::kPassRows) {
    if (pass > 0) own.begin(bias, self);
    GRU_UNROLL
    for (int wave = 0; wave < Traits::kWaves; ++wave) {
      if (pass == 0 && !exchange.wait(s, wave, limit)) failed = true;
      multiply<typename Traits::Operand, Traits::kWaveTiles, Traits::kPassRows>(
          own.d, weights, wave * Traits::kWaveTiles, h + pass * Traits::kPitch, Traits::kPitch, column_of,
          own.order_of(self));
    }
    own.hand_over(pass, self);
  }
  return !failed;
}

template <typename Traits, bool kSaveGates>
GRU_DEVICE void gru_cluster_fwd(const PersistentFwdParams<typename Traits::T>& p) {
  using T = typename Traits::T;
  constexpr int kRows = Traits::kRows, kPairs = Traits::kPairs;

  const TeamThread<Traits> self(p);
  const BlockWork& work = self.work;
  const int steps = p.lengths ? load_global(p.lengths + work.row0) : p.T;  // the first row of a tile has the most
  const bool reverse = work.direction == 1, packed = p.offsets != nullptr;
  float* const bias = reinterpret_cast<float*>(shared_memory() + Traits::kBiasOffset);  // see load_bias

  StateExchange<Traits> exchange(p, self);
  exchange.begin();
  WeightTiles<3, Traits::kRegisterTiles, Traits::kSharedTiles> weights;
  load_fwd_weights(weights, p, self, exchange.of_step(0));
  load_bias<Traits>(bias, p, work);
  load_first_state(exchange.of_step(0), p, self);

  const auto row_of_step = [&](int s) {
    const int step = clamp(s, 0, steps - 1);
    return first_row(p, reverse ? steps - 1 - step : step);
  };
  const auto time_of_step = [&](int s) { return reverse ? steps - 1 - s : s; };
  const Step first = {time_of_step(0), row_of_step(0)};
  FwdDistance distance = FwdDistance::unpacked(p, work.direction);
  FwdPair<T> own[kPairs];
  FwdPlaces<T, kSaveGates> places[kPairs];
  GRU_UNROLL
  for (int e = 0; e < kPairs; ++e) {
    const int row = self.row_of_pair(e);
    own[e].begin(p, work, row, self.unit_of_pairs(), row < kRows);
    places[e].begin(p, work, own[e], first);
    own[e].load_step(places[e].a_x, first.t, p.H, p.paired);
    if (!packed) places[e].begin_stores(distance);
  }

  // Kept, not asked for in every step.
  const int is_largest = Traits::kHasSpareRegisters ? anew(p.paired && p.H == Traits::kHidden) : false;

  exchange.meet();
  if (GRU_FAULT(a_thread_leaves, false, self.thread == 5)) return;

  bool failed = false;
  GRU_NO_UNROLL
  for (int s = 0; s < steps; ++s) {
    at_step(s);
    const int t = time_of_step(s);
    FwdSums<Traits> products;
    products.begin(bias, self);
    if (!multiply_state(products, weights, bias, exchange, s, p.wait_limit, self)) failed = true;
    // Loaded long before they are used, but not beside the loads of the step, for which they would wait.
    PackedRows rows;
    if (packed) rows = {row_of_step(s - 1), row_of_step(s), row_of_step(s + 1)};
    if constexpr (Traits::kExchange == Exchange::cluster) {
      failed = GRU_FAULT(no_team_barrier, named_barrier_or(1 + self.team, Traits::kTeamThreads, failed), failed);
    } else if constexpr (Traits::kTeamWarps > 1) {  // no wait fails, or the block has agreed on it
      GRU_FAULT(no_team_barrier, named_barrier(1 + self.team, Traits::kTeamThreads), void());
    }
    if (failed) break;

    // Others wait for h': all of it goes first.
    const bool last = s + 1 == steps;
    Gates<float> gates[kPairs][2] = {};
    if (Traits::kAllKeep || own[0].row < kRows) {
      Pair<float> a_h[kPairs][3];
      products.add_up(a_h, self);
      GRU_UNROLL
      for (int e = 0; e < kPairs; ++e) own[e].template advance<typename Traits::Math>(t, a_h[e], gates[e]);
    }
    if (!last || Traits::kExchange == Exchange::none) {  // a branch more would take longer
      // Beyond H it is zero, beyond a sequence's end what it was there.
      GRU_UNROLL
      for (int e = 0; e < kPairs; ++e) exchange.take(own[e], s + 1, e);
      exchange.send(s + 1);
    }
    if (packed) {
      distance = FwdDistance::packed(p, work.direction, rows.next - rows.here, rows.here - rows.before);
    } else if (!Traits::kKeepsDistance) {
      distance = FwdDistance::unpacked(p, work.direction);
    }
    with_pairing_and_hidden<Traits::kHidden>(is_largest, p, [&](bool paired, int H) {
      GRU_UNROLL
      for (int e = 0; e < kPairs; ++e) {
        places[e].advance_loads(distance);
        places[e].advance_stores(distance);
        if (!last) own[e].load_step(places[e].a_x, time_of_step(s + 1), H, paired);
      }
      if (!last) exchange.send_rest(s + 1);
      GRU_UNROLL
      for (int e = 0; e < kPairs; ++e) {
        own[e].store_state(places[e].y, t, paired);
        if constexpr (kSaveGates) own[e].store_gates(places[e].gates, t, H, gates[e], paired);
      }
    });
    exchange.expect_next(s);
  }

  if (failed) store_global(p.error, 1);
  const TeamThread<Traits> again(p, thread_index_again(), block_index_again());
  GRU_UNROLL
  for (int e = 0; e < kPairs; ++e) {
    own[e].row = again.row_of_pair(e);
    own[e].unit = again.unit_of_pairs();
    own[e].store_last_state(p, again.work);
  }
  exchange.end();
}

template <typename Traits, bool kSaveGates>
GRU_KERNEL(Traits::kThreads, 1)
gru_cluster_fwd_kernel(const PersistentFwdParams<typename Traits::T> p) {
  constexpr bool kServes = Traits::kExchange == Exchange::none ? kHasAsyncCopies : kHasClusters;
  if constexpr (kServes) gru_cluster_fwd<Traits, kSaveGates>(p);
}

}  // namespace device
}  // namespace gru_ext
