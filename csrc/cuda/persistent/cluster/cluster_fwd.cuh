// The recurrence, all steps of a layer and both directions in one launch: a cluster of C blocks keeps the recurrent
// weights R (3H, H) in registers and shared memory, and works through the steps of a tile of rows of the batch.
//
//     r  = sigmoid(a_x[r] + R_r h + b_hr)        q  = R_n h + b_hn
//     z  = sigmoid(a_x[z] + R_z h + b_hz)        n  = tanh(a_x[n] + r * q)        h' = n + z * (h - n)
//
// Grid: D * tiles clusters of C blocks. Block `rank` of a cluster owns H / C hidden units; of each, the three rows of R
// and the state of every row of the tile. Each step it multiplies its rows of R by the whole state h, which it has in
// shared memory, and sends its units of h' to all blocks of the cluster.
//
// Warps: those of a block form groups, one for every 16 units; the warps of a group share out the sum over h.
//   1. Wait until all of h has come.                                                          mbarrier
//   2. mma: (16 units of a gate) x (its part of h) x (rows of the tile), three gates. R is the A operand, in registers
//      as far as it fits; h the B operand, by ldmatrix.
//   3. Write the partial sums to shared memory.                                               barrier of the group
//   4. A thread adds those of its pairs of units, applies the gates, stores y, and sends its pairs of h', 16 bytes at a
//      time, to every block. h itself stays in its registers, in float32.
//
// Shared memory is written by: h, by asynchronous stores of the whole cluster (the first, before the loop, by the block
// itself); sums, by the group that reads them; overflow weights, by the warp that reads them.
//
// Why so few barriers are enough. h has two buffers, by the parity of the step. The buffer of h(s + 1) was last read in
// step s - 1. To write it, a block must hold all of h(s), and a group sends its part of h(s) only after its warps have
// finished reading in step s - 1. So when a block writes, every block has read. For the same reason a group may write
// its sums of step s: it read those of step s - 1 before it sent h(s). With C = 1 there is no mbarrier; a block barrier
// takes its place.
// The cluster barrier before the loop: no store may come before the mbarriers are made and the first h is in place.
// The one after it: no block may leave while another, after a wait that took too long, still sends to it.
//
// Where R is too large for a cluster, or the GPU has none, the C blocks are a group (Exchange::packets). A block sends
// its units of h' once, as packets in global memory, which here means the L2 cache, and every block fetches all of h:
// its threads wait for the packets, put them into shared memory, and a block barrier ends that. Again there are two
// buffers: a block that sends h(s + 1) has had all of h(s), whose senders had fetched h(s - 1).
//
// A wait that takes too long sets `error`; the group then leaves the loop, others follow as their waits end, and all
// meet at the last barrier.
#pragma once

#include "cuda/persistent/pairs.cuh"
#include "cuda/persistent/rows.cuh"
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
  static constexpr int kUnits = Hidden / C_;           // of a block
  static constexpr int kGroups = kUnits / 16;          // of warps
  static constexpr int kGroupWarps = Warps / kGroups;  // that share out the sum
  static constexpr int kGroupThreads = kGroupWarps * kWarpSize;
  static constexpr int kWords = Hidden / kValuesPerWord<T>;  // operand words of a row of h
  static constexpr int kTiles = kWords / 8 / kGroupWarps;    // A tiles of a warp and gate
  static constexpr int kSharedTiles = kTiles - RegisterTiles;
  static constexpr int kPassRows = Rows < 16 || kOnFmaUnits<Operand> ? 8 : 16;  // whose sums are in registers at a time
  static constexpr int kPairs = (8 * Rows + kGroupThreads - 1) / kGroupThreads;  // of a thread
  static constexpr int kPitch = kWords + 4;  // words between rows of h: ldmatrix meets every bank once
  static constexpr int kSumPitch = 16 + 4;   // floats between rows of the sums: their writes meet every bank once

  // Tiles of a warp that are on their way from global memory to registers at a time; those of all parts side by side.
  static constexpr int stage_tiles(int tiles) {
    return tiles % 4 || kUnits * kGroupWarps * tiles * 32 <= 72 * 1024 ? tiles : stage_tiles(tiles / 2);
  }
  static constexpr int kStageTiles = stage_tiles(kTiles);
  static constexpr int kStageColumns = kGroupWarps * kStageTiles * 8 * kValuesPerWord<T>;

  static constexpr int kStateBytes = Rows * kPitch * 4;  // of one of the two buffers
  static constexpr int kSumBytes = kGroups * kGroupWarps * 3 * Rows * kSumPitch * 4;
  static constexpr int kStageBytes = kUnits * (kStageColumns / kValuesPerWord<T> + 4) * 4;
  static constexpr int kOverflowBytes = Warps * 3 * kSharedTiles * kWarpSize * 16;  // of the weights
  static constexpr int kBiasOffset = kOverflowBytes;
  static constexpr int kMbarrierOffset = kBiasOffset + 3 * kUnits * 4;
  static constexpr int kStateOffset = kMbarrierOffset + 2 * 8;
  static constexpr int kSumOffset = kStateOffset + 2 * kStateBytes;
  static constexpr int kSharedBytes =
      kStateOffset + (2 * kStateBytes + kSumBytes > kStageBytes ? 2 * kStateBytes + kSumBytes : kStageBytes);
  static constexpr int kExchangeBytes = Rows * kWords * 4;  // of h: what a block receives in a step
  static constexpr int kPackets = kExchange == Exchange::packets ? 2 * Rows * kWords : 0;  // of both buffers
  static constexpr int kPacketBytes = kPackets * 8;

  static_assert(C_ >= 1 && (kExchange == Exchange::packets || C_ <= 16), "a cluster has at most 16 blocks");
  static_assert(Hidden % (16 * C_) == 0, "a block owns whole tiles of 16 units");
  static_assert(Warps % kGroups == 0 && kGroups <= 15, "groups of equal size, a named barrier for each");
  static_assert(kWords % (16 * kGroupWarps) == 0, "ldmatrix loads two tiles of h at a time");
  static_assert(Rows == 8 || Rows % 16 == 0, "the tensor core takes 8 rows, a pass 16");
  static_assert(RegisterTiles >= 0 && RegisterTiles <= kTiles && RegisterTiles % 2 == 0, "register tiles in twos");
  static_assert(kStateOffset % 16 == 0 && kStateBytes % 16 == 0, "alignment of asynchronous stores and ldmatrix");
  static_assert(kTiles % kStageTiles == 0 && kStageTiles % 2 == 0, "whole stages, ldmatrix in twos");
  static_assert(kSharedBytes <= (C_ == 1 ? 163 : 227) * 1024, "the shared memory of a block, sm_80 and sm_90");
  static_assert(kPitch % 2 == 0 && kWords % 2 == 0, "packets are fetched in twos");
};

template <typename Traits, bool kSaveGates>
GRU_DEVICE void gru_cluster_fwd(const PersistentFwdParams<typename Traits::T>& p) {
  using T = typename Traits::T;
  using Operand = typename Traits::Operand;
  using Math = typename Traits::Math;
  using Words = PairWords<Operand>;
  constexpr int C = Traits::kC, kRows = Traits::kRows, kTiles = Traits::kTiles, kPitch = Traits::kPitch;
  constexpr int kRegisterTiles = Traits::kRegisterTiles, kSumPitch = Traits::kSumPitch, kPairs = Traits::kPairs;
  constexpr int kGroupWarps = Traits::kGroupWarps, kStageTiles = Traits::kStageTiles;
  constexpr Exchange kExchange = Traits::kExchange;

  const int thread = thread_index(), warp = thread / kWarpSize, lane = thread % kWarpSize;
  const int rank = kExchange == Exchange::cluster ? cluster_rank() : block_index() % C;
  const int tiles = (p.B + kRows - 1) / kRows;
  const int cluster = (kExchange == Exchange::packets ? p.first_group : 0) + block_index() / C;
  const int direction = cluster / tiles;
  const int row0 = cluster % tiles * kRows;  // the tile's first
  const int group = warp % Traits::kGroups, part = warp / Traits::kGroups;
  const int group_thread = part * kWarpSize + lane;
  const int unit0 = rank * Traits::kUnits + group * 16;  // the group's first
  const int H = p.H;
  const int steps = p.lengths ? load_global(p.lengths + row0) : p.T;  // the first row of a tile has the most
  const bool reverse = direction == 1;

  char* const shared = shared_memory();
  uint32_t* const state = reinterpret_cast<uint32_t*>(shared + Traits::kStateOffset);  // (2, rows, kPitch)
  uint32_t* const staged = state;                                                      // before the first step
  const int g = lane / 4, c = lane % 4;  // see primitives.cuh, tensor cores
  float* const sums = reinterpret_cast<float*>(shared + Traits::kSumOffset) +
                      group * (kGroupWarps * 3 * kRows * kSumPitch);  // (parts, 3, rows, kSumPitch)
  u32x4* const overflow = reinterpret_cast<u32x4*>(shared) + warp * (3 * Traits::kSharedTiles * kWarpSize) +
                          lane;                                                // (3, kSharedTiles), kWarpSize apart
  float* const bias = reinterpret_cast<float*>(shared + Traits::kBiasOffset);  // (3, kUnits)
  uint64_t* const mbarriers = reinterpret_cast<uint64_t*>(shared + Traits::kMbarrierOffset);
  uint64_t* const packets = p.packets + static_cast<int64_t>(cluster) * Traits::kPackets;  // (2, rows, kWords)

  if constexpr (kExchange == Exchange::cluster) {
    if (thread == 0) {
      GRU_UNROLL
      for (int i = 0; i < 2; ++i) {
        mbarrier_init(mbarriers + i, 1);
        mbarrier_arrive_expect(mbarriers + i, Traits::kExchangeBytes);
      }
      GRU_FAULT(no_mbarrier_fence, mbarrier_init_fence(), void());
    }
  }

  // A tiles of this warp, by way of shared memory that is free before the first step. Beyond H they are zero.
  uint32_t weights[3][kRegisterTiles > 0 ? kRegisterTiles : 1][4];
  GRU_UNROLL
  for (int gate = 0; gate < 3; ++gate) {
    GRU_UNROLL
    for (int first = 0; first < kTiles; first += kStageTiles) {
      constexpr int kColumns = Traits::kStageColumns, kStagePitch = kColumns / kValuesPerWord<T> + 4;
      const int row = rank * Traits::kUnits, column = first / kStageTiles * kColumns;
      stage_weights<Traits::kUnits, kColumns, Traits::kThreads>(
          staged, p.weight_hh[direction] + static_cast<int64_t>(gate * H + row) * H + column, H, H - row, H - column,
          p.aligned);
      block_barrier();
      GRU_UNROLL
      for (int i = 0; i < kStageTiles; ++i) {
        const int tile = first + i;
        uint32_t a[4];
        if constexpr (kOnFmaUnits<Operand>) {
          GRU_UNROLL
          for (int j = 0; j < 4; ++j) {
            const int column = (part * kStageTiles + i / 2 * 2) * 8 + 4 * c + i % 2 * 2 + j / 2;
            a[j] = load_shared(staged + (group * 16 + g + j % 2 * 8) * kStagePitch + column);
          }
        } else {
          ldmatrix_x4(a,
                      staged + (group * 16 + lane % 16) * kStagePitch + (part * kStageTiles + i) * 8 + lane / 16 * 4);
          to_operand<Operand>(a);
        }
        keep_tile<kRegisterTiles, Traits::kSharedTiles>(weights, overflow, gate, tile, a);
      }
      block_barrier();
    }
  }
  for (int i = thread; i < 3 * Traits::kUnits; i += Traits::kThreads) {
    const int gate = i / Traits::kUnits, unit = i % Traits::kUnits;
    const T* const bias_hh = p.bias_hh[direction];
    const bool exists = bias_hh && rank * Traits::kUnits + unit < H;
    store_shared(bias + i, exists ? to_acc(load_global(bias_hh + gate * H + rank * Traits::kUnits + unit)) : 0.0f);
  }

  // The first h, all of it.
  for (int i = thread; i < kRows * Traits::kHidden / 2; i += Traits::kThreads) {
    const int row = i / (Traits::kHidden / 2), unit = i % (Traits::kHidden / 2) * 2;
    const int count = p.h0 && row0 + row < p.B ? clamp(H - unit, 0, 2) : 0;
    const LoadedPair<T> h =
        load_pair(at_offset(p.h0, (static_cast<int64_t>(direction) * p.B + row0 + row) * H + unit), count, p.paired);
    const Words words = Words::of(to_acc(h.first()), to_acc(h.second()));
    GRU_UNROLL
    for (int w = 0; w < Words::count; ++w) {
      store_shared(state + row * kPitch + unit / kValuesPerWord<T> + w, words.word[w]);
    }
  }

  // The pairs of units that this thread works on.
  struct {
    int row;          // of the tile; from kRows on for a thread that has none
    int unit, count;  // the first unit, and how many of the two there are (0 beyond B)
    int steps;        // of the row's sequence
    float h[2];
    LoadedPair<T> a_x[3];  // of the next step
  } own[kPairs];
  const bool packed = p.offsets != nullptr;
  const auto load_a_x = [&](auto& pair, const Step& step) {
    const T* const a_x = rows_of_step(p.a_x[direction], packed, step) +
                         static_cast<int64_t>(row0 + pair.row) * p.a_x[direction].row_stride + pair.unit;
    const int count = step.t < pair.steps ? pair.count : 0;
    load_pairs(pair.a_x, {a_x, a_x + H, a_x + 2 * H}, {count, count, count}, p.paired);
  };
  const auto row_of_step = [&](int s) { return s < steps ? first_row(p, reverse ? steps - 1 - s : s) : 0; };
  int64_t next_row = row_of_step(0);
  GRU_UNROLL
  for (int e = 0; e < kPairs; ++e) {
    auto& pair = own[e];
    const int i = group_thread + e * Traits::kGroupThreads;
    pair.row = i / 8;
    pair.unit = unit0 + i % 8 * 2;
    const int row = row0 + pair.row;
    const bool exists = pair.row < kRows && row < p.B;
    pair.count = exists ? clamp(H - pair.unit, 0, 2) : 0;
    pair.steps = !exists ? 0 : p.lengths ? load_global(p.lengths + row) : p.T;
    const LoadedPair<T> h = load_pair(at_offset(p.h0, (static_cast<int64_t>(direction) * p.B + row) * H + pair.unit),
                                      p.h0 ? pair.count : 0, p.paired);
    pair.h[0] = to_acc(h.first());
    pair.h[1] = to_acc(h.second());
    load_a_x(pair, {reverse ? steps - 1 : 0, next_row});
  }

  if constexpr (kExchange == Exchange::cluster) {
    GRU_FAULT(no_cluster_barrier, cluster_barrier(), void());
  } else {
    GRU_FAULT(no_barrier_before_first_step, block_barrier(), void());
  }

  if (GRU_FAULT(a_thread_leaves, false, thread == 5)) return;

  bool failed = false;
  GRU_NO_UNROLL
  for (int s = 0; s < steps; ++s) {
    at_step(s);
    const int buffer = s % 2, t = reverse ? steps - 1 - s : s;
    const int64_t row = next_row;
    next_row = row_of_step(s + 1);
    if (s > 0) {
      if constexpr (kExchange == Exchange::packets) {
        const uint64_t* const from = packets + buffer * kRows * Traits::kWords;
        uint32_t* const to = state + buffer * kRows * kPitch;
        constexpr int kTwos = kRows * Traits::kWords / 2, kAtOnce = 4;
        for (int first = thread; first < kTwos && !failed; first += kAtOnce * Traits::kThreads) {
          const uint64_t* fetched[kAtOnce];
          u32x4 values[kAtOnce];
          GRU_UNROLL
          for (int i = 0; i < kAtOnce; ++i) {
            const int two = first + i * Traits::kThreads;
            fetched[i] = from + (two < kTwos ? two : first) * 2;
          }
          failed |= !wait_for_packets(values, fetched,
                                      static_cast<uint32_t>(GRU_FAULT(wrong_tag, s, s < 2 ? s : s - 2)), p.wait_limit);
          GRU_UNROLL
          for (int i = 0; i < kAtOnce; ++i) {
            const int two = first + i * Traits::kThreads;
            if (two < kTwos) {
              store_shared(reinterpret_cast<u32x2*>(to + two * 2 / Traits::kWords * kPitch + two * 2 % Traits::kWords),
                           u32x2{values[i].x, values[i].z});
            }
          }
        }
        failed = GRU_FAULT(no_barrier_after_packets, block_barrier_or(failed), failed);
      } else if constexpr (kExchange == Exchange::cluster) {
        const int parity = GRU_FAULT(wrong_parity, (s - 1) / 2 % 2, s / 2 % 2);
        failed |= !mbarrier_wait(mbarriers + buffer, parity, p.wait_limit);
        if (!failed && (thread == 0 || GRU_FAULT(two_arrivals, false, thread == kWarpSize))) {
          mbarrier_arrive_expect(mbarriers + buffer, Traits::kExchangeBytes + GRU_FAULT(too_few_bytes, 0, -16) +
                                                         GRU_FAULT(too_many_bytes, 0, 16));
        }
      } else {
        GRU_FAULT(no_block_barrier, block_barrier(), void());
      }
    }

    // A stage has kStageTiles tiles of every part.
    const auto tile_of_h = [&](int tile) {
      return (tile / kStageTiles * kGroupWarps + part) * kStageTiles + tile % kStageTiles;
    };
    const uint32_t* const h = state + buffer * kRows * kPitch;
    GRU_NO_UNROLL
    for (int pass = 0; pass < kRows; pass += Traits::kPassRows) {
      constexpr int kColumns = Traits::kPassRows / 8;  // of D tiles
      float d[3][kColumns][4];
      GRU_UNROLL
      for (int gate = 0; gate < 3; ++gate) {
        GRU_UNROLL
        for (int i = 0; i < 2; ++i) {
          const float b = part == 0 ? load_shared(bias + gate * Traits::kUnits + group * 16 + g + i * 8) : 0.0f;
          GRU_UNROLL
          for (int n = 0; n < kColumns; ++n) d[gate][n][2 * i] = d[gate][n][2 * i + 1] = b;
        }
      }
      if constexpr (kOnFmaUnits<Operand>) {
        FmaSums<3, Traits::kPassRows> products;
        GRU_UNROLL
        for (int tile = 0; tile < kTiles; tile += 2) {
          uint32_t a[3][2][4];
          GRU_UNROLL
          for (int i = 0; i < 6; ++i)
            load_tile<kRegisterTiles, Traits::kSharedTiles>(a[i / 2][i % 2], weights, overflow, i / 2, tile + i % 2);
          products.add(a, h + pass * kPitch + tile_of_h(tile) * 8, kPitch, c);
        }
        GRU_UNROLL
        for (int gate = 0; gate < 3; ++gate) {
          GRU_UNROLL
          for (int n = 0; n < kColumns; ++n) products.add_to(d[gate][n], gate, n, c);
        }
      } else {
        GRU_UNROLL
        for (int tile = 0; tile < kTiles; tile += 2) {
          uint32_t b[kColumns][4];
          GRU_UNROLL
          for (int n = 0; n < kColumns; ++n) {
            ldmatrix_x4(b[n], h + (pass + n * 8 + lane % 8) * kPitch + tile_of_h(tile) * 8 +
                                  lane / 8 * GRU_FAULT(misaligned, 4, 2));
          }
          GRU_UNROLL
          for (int k = 0; k < 2; ++k) {
            GRU_UNROLL
            for (int gate = 0; gate < 3; ++gate) {
              uint32_t a[4];
              load_tile<kRegisterTiles, Traits::kSharedTiles>(a, weights, overflow, gate, tile + k);
              GRU_UNROLL
              for (int n = 0; n < kColumns; ++n) mma<Operand>(d[gate][n], a, b[n][2 * k], b[n][2 * k + 1]);
            }
          }
        }
      }
      GRU_UNROLL
      for (int gate = 0; gate < 3; ++gate) {
        GRU_UNROLL
        for (int n = 0; n < kColumns; ++n) {
          float* const sum = sums + ((part * 3 + gate) * kRows + pass + n * 8 + 2 * c) * kSumPitch + g +
                             GRU_FAULT(store_out_of_shared, 0, Traits::kSharedBytes);
          store_shared(sum, d[gate][n][0]);
          store_shared(sum + kSumPitch, d[gate][n][1]);
          store_shared(sum + 8, d[gate][n][2]);
          store_shared(sum + kSumPitch + 8, d[gate][n][3]);
        }
      }
    }
    if constexpr (kGroupWarps == 1) {
      failed = GRU_FAULT(no_group_barrier, warp_barrier_or(failed), failed);
    } else {
      failed = GRU_FAULT(no_group_barrier, named_barrier_or(1 + group, Traits::kGroupThreads, failed), failed);
    }
    if (failed) break;

    T* const y = rows_of_step(p.y, packed, {t, row}) + direction * H;
    T* const gates_of_step = kSaveGates ? p.gates + (direction * p.N + row) * 4 * H : nullptr;
    GRU_UNROLL
    for (int e = 0; e < kPairs; ++e) {
      auto& pair = own[e];
      const int count = t < pair.steps ? pair.count : 0;
      Gates<float> gates[2] = {};
      if (count > 0) {
        float a[3][2] = {};
        GRU_UNROLL
        for (int i = 0; i < kGroupWarps; ++i) {
          GRU_UNROLL
          for (int gate = 0; gate < 3; ++gate) {
            const Pair<float> sum = load_shared(reinterpret_cast<const Pair<float>*>(
                sums + ((i * 3 + gate) * kRows + pair.row) * kSumPitch + (pair.unit - unit0)));
            a[gate][0] += sum.first;
            a[gate][1] += sum.second;
          }
        }
        pair.h[0] = cell_fwd<Math>(to_acc(pair.a_x[0].first()) + a[0][0], to_acc(pair.a_x[1].first()) + a[1][0],
                                   to_acc(pair.a_x[2].first()), a[2][0], pair.h[0], gates[0]);
        const float second =
            cell_fwd<Math>(to_acc(pair.a_x[0].second()) + a[0][1], to_acc(pair.a_x[1].second()) + a[1][1],
                           to_acc(pair.a_x[2].second()), a[2][1], pair.h[1], gates[1]);
        if (count == 2) pair.h[1] = second;
      }

      // Others wait for h': it goes first. Beyond H it is zero, beyond a sequence's end what it was there.
      if (s + 1 < steps) {
        const bool has_row = pair.row < kRows;
        const Words words = Words::of(pair.h[0], pair.h[1]);
        uint32_t* const next = state + (GRU_FAULT(one_buffer, (s + 1) % 2, s % 2) * kRows + pair.row) * kPitch +
                               pair.unit / kValuesPerWord<T>;
        if constexpr (kExchange == Exchange::none) {
          if (has_row) {
            GRU_UNROLL
            for (int w = 0; w < Words::count; ++w) store_shared(next + w, words.word[w]);
          }
        } else if constexpr (kExchange == Exchange::packets) {
          if (has_row) {
            uint64_t* const sent = packets +
                                   (GRU_FAULT(one_packet_buffer, (s + 1) % 2, 0) * kRows + pair.row) * Traits::kWords +
                                   pair.unit / kValuesPerWord<T>;
            GRU_UNROLL
            for (int w = 0; w < Words::count; ++w) store_packet(sent + w, words.word[w], static_cast<uint32_t>(s + 1));
          }
        } else {
          // As many threads as fill 16 bytes gather them, and share out the blocks to send them to.
          constexpr int kSenders = 4 / Words::count;
          const int sender = lane % kSenders;
          uint32_t packet[4];
          GRU_UNROLL
          for (int w = 0; w < 4 && GRU_FAULT(divergent_shuffle, true, count > 0); ++w) {
            packet[w] = shuffle(words.word[w % Words::count], lane - sender + w / Words::count);
          }
          // Whoever gets the packet knows that all threads whose values are in it have read their sums.
          GRU_FAULT(no_warp_barrier, warp_barrier(), void());
          if (has_row) {
            GRU_UNROLL
            for (int i = 0; i < (C + kSenders - 1) / kSenders; ++i) {
              const int turn = i * kSenders + sender;
              if (turn < GRU_FAULT(forgets_a_block, C, C - 1)) {
                const int to = turn + rank < C ? turn + rank : turn + rank - C;  // each block begins with another
                store_async(next - sender * Words::count, mbarriers + (s + 1) % 2, to,
                            u32x4{packet[0], packet[1], packet[2], packet[3]});
              }
            }
          }
        }
      }

      const int64_t row_of_batch = row0 + pair.row;
      store_pair(y + row_of_batch * p.y.row_stride + pair.unit, pair.h[0], pair.h[1],
                 GRU_FAULT(stores_beyond_h, count, count > 0 ? 2 : 0), p.paired);
      if constexpr (kSaveGates) {
        T* const to = gates_of_step + row_of_batch * 4 * H + pair.unit;
        store_pair(to, gates[0].r, gates[1].r, count, p.paired);
        store_pair(to + H, gates[0].z, gates[1].z, count, p.paired);
        store_pair(to + 2 * H, gates[0].n, gates[1].n, count, p.paired);
        store_pair(to + 3 * H, gates[0].q, gates[1].q, count, p.paired);
      }
      if (s + 1 < steps) {  // from s: t would take a register till here
        load_a_x(pair, {reverse ? steps - 2 - s : s + 1, next_row});
      }
    }
  }

  if (failed) store_global(p.error, 1);
  GRU_UNROLL
  for (int e = 0; e < kPairs; ++e) {
    const auto& pair = own[e];
    store_pair(p.h_n + (static_cast<int64_t>(direction) * p.B + row0 + pair.row) * H + pair.unit, pair.h[0], pair.h[1],
               pair.count, p.paired);
  }
  if constexpr (kExchange == Exchange::cluster) cluster_barrier();
}

template <typename Traits, bool kSaveGates>
GRU_KERNEL(Traits::kThreads, 1)
gru_cluster_fwd_kernel(const PersistentFwdParams<typename Traits::T> p) {
  constexpr bool kServes = Traits::kExchange == Exchange::none ? kHasAsyncCopies : kHasClusters;
  if constexpr (kServes) gru_cluster_fwd<Traits, kSaveGates>(p);
}

}  // namespace device
}  // namespace gru_ext
