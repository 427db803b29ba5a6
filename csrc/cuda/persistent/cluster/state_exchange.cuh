// How blocks that share out R tell each other of the hidden state h, see cluster_fwd.cuh: within one block, and in a
// cluster. In a group: group/group_fwd.cuh.
#pragma once

#include "cuda/persistent/team_thread.cuh"
#include "cuda/persistent/fwd_pair.cuh"

namespace gru_ext {
namespace device {

// The h of all units of the layer, of the rows of the tile, as operand words: (2, rows, kPitch) in shared memory, of
// even and odd steps.
template <typename Traits>
struct StateBuffers {
  using Words = PairWords<typename Traits::Operand>;
  uint32_t* state;

  GRU_DEVICE StateBuffers() : state(reinterpret_cast<uint32_t*>(shared_memory() + Traits::kStateOffset)) {}

  GRU_DEVICE uint32_t* of_step(int s) const { return state + s % 2 * Traits::kRows * Traits::kPitch; }

  // For what a step sends.
  GRU_DEVICE uint32_t* of_next_step(int s) const { return of_step(GRU_FAULT(one_buffer, s % 2, (s + 1) % 2)); }
};

// All threads call each of these: `begin` first; `meet` when the first h is in place; `wait` before the products with a
// wave of a step, which returns whether all of it has come, as far as this thread knows; `take` when the e-th pair,
// which may have no row, has the h of step s; `send` when all have, and `send_rest` later; `expect_next` when step s is
// done; and `end` when all are.
template <typename Traits, Exchange = Traits::kExchange>
struct StateExchange;

template <typename Traits>
struct StateExchange<Traits, Exchange::none> : StateBuffers<Traits> {
  using Words = typename StateBuffers<Traits>::Words;

  GRU_DEVICE StateExchange(const PersistentFwdParams<typename Traits::T>&, const TeamThread<Traits>&) {}

  GRU_DEVICE void begin() {}
  GRU_DEVICE void meet() { GRU_FAULT(no_barrier_before_first_step, block_barrier(), void()); }
  GRU_DEVICE bool wait(int, int, uint32_t) {
    GRU_FAULT(no_block_barrier, block_barrier(), void());
    return true;
  }
  GRU_DEVICE void take(const FwdPair<typename Traits::T>& pair, int s, int) {
    if (!Traits::kAllKeep && pair.row >= Traits::kRows) return;
    const Words words = Words::of(pair.h[0], pair.h[1]);
    uint32_t* const to =
        this->of_next_step(s) + pair.row * Traits::kPitch + pair.unit / kValuesPerWord<typename Traits::T>;
    GRU_UNROLL
    for (int w = 0; w < Words::count; ++w) store_shared(to + w, words.word[w]);
  }
  GRU_DEVICE void send(int) {}
  GRU_DEVICE void send_rest(int) {}
  GRU_DEVICE void expect_next(int) {}
  GRU_DEVICE void end() {}
};

// By asynchronous stores to every block, 16 bytes at a time, of which each block's mbarriers count the bytes, one for
// each wave. A block sends to itself first, then to those before it, in a ring.
template <typename Traits>
struct StateExchange<Traits, Exchange::cluster> : StateBuffers<Traits> {
  using Words = typename StateBuffers<Traits>::Words;
  static constexpr int C = Traits::kC, kSenders = Traits::kSenders, kWaves = Traits::kWaves;
  static constexpr int kPairs = Traits::kPairs, kWaveBlocks = Traits::kWaveBlocks;
  static constexpr int kUnitWords = Traits::kUnits / kValuesPerWord<typename Traits::T>;
  static constexpr int kLanePairs = kSenders > kWaveBlocks ? kSenders / kWaveBlocks : 1;  // that are sent at a time
  uint64_t* mbarriers;  // (2, kWaves), of even and odd steps
  int lane, rank;
  int place;                                              // see place_of
  int leads;                                              // whether this thread is the first of the block
  bool lacks_row;                                         // whether its pairs have none
  u32x4 packets[(kPairs + kLanePairs - 1) / kLanePairs];  // that this thread sends

  GRU_DEVICE StateExchange(const PersistentFwdParams<typename Traits::T>&, const TeamThread<Traits>& self)
      : mbarriers(reinterpret_cast<uint64_t*>(shared_memory() + Traits::kMbarrierOffset)),
        lane(self.lane),
        rank(self.rank),
        place(anew(place_of(self))),
        leads(anew(self.thread == 0)),
        lacks_row(self.row_of_pair(0) >= Traits::kRows) {}

  // The first h is there before any wave: the phases of step 0 have ended.
  GRU_DEVICE void begin() {
    if (!leads) return;
    GRU_UNROLL
    for (int i = 0; i < 2 * kWaves; ++i) {
      mbarrier_init(mbarriers + i, 1);
      mbarrier_arrive_expect(mbarriers + i, i < kWaves ? 0 : Traits::kWaveBytes);
    }
    GRU_FAULT(no_mbarrier_fence, mbarrier_init_fence(), void());
  }

  GRU_DEVICE void meet() { GRU_FAULT(no_cluster_barrier, cluster_barrier(), void()); }

  GRU_DEVICE bool wait(int s, int wave, uint32_t limit) {
    const int step = GRU_FAULT(wrong_parity, s, s < 2 ? s : s + 2);
    return mbarrier_wait(of_wave(s, wave), step / 2 % 2, limit);
  }

  // What is sent when step s is done may come before it is expected.
  GRU_DEVICE void expect_next(int s) {
    const bool second = GRU_FAULT(two_arrivals, false, thread_index() == kWarpSize);
    const int missing = GRU_FAULT(too_few_bytes, 0, 16);
    const int excess = GRU_FAULT(too_many_bytes, 0, 16);
    if (!leads && !second) return;
    GRU_UNROLL
    for (int wave = 0; wave < kWaves; ++wave) {
      mbarrier_arrive_expect(of_wave(s, wave), Traits::kWaveBytes - missing + excess);
    }
  }

  // As many threads as fill 16 bytes gather them, and share out the blocks to send them to.
  GRU_DEVICE void take(const FwdPair<typename Traits::T>& pair, int, int e) {
    const Words words = Words::of(pair.h[0], pair.h[1]);
    const bool gathers = GRU_FAULT(divergent_shuffle, true, pair.existing(0) > 0);
    uint32_t gathered[4] = {};
    GRU_UNROLL
    for (int w = 0; w < 4 && gathers; ++w) {
      gathered[w] = shuffle(words.word[w % Words::count], lane + (w / Words::count - sender()) * 4);
    }
    u32x4& packet = packets[e / kLanePairs];
    const bool is = e % kLanePairs == 0 || first_pair() == e % kLanePairs;
    packet = {is ? gathered[0] : packet.x, is ? gathered[1] : packet.y, is ? gathered[2] : packet.z,
              is ? gathered[3] : packet.w};
  }

  GRU_DEVICE void send(int s) {
    // A packet tells that all threads whose values are in it have read their sums.
    GRU_FAULT(no_warp_barrier, warp_barrier(), void());
    send_wave(s, 0);
  }

  GRU_DEVICE void send_rest(int s) {
    GRU_UNROLL
    for (int wave = 1; wave < kWaves; ++wave) send_wave(s, wave);
  }

  GRU_DEVICE void end() { cluster_barrier(); }

 private:
  GRU_DEVICE int sender() const { return lane / 4 % kSenders; }
  GRU_DEVICE uint64_t* of_wave(int s, int wave) const { return mbarriers + s % 2 * kWaves + wave; }

  // In a wave every pair has a packet for each of kWaveBlocks blocks. The threads that have gathered the same ones
  // share these out, kSenders at a time, blocks before pairs. So a thread begins with:
  GRU_DEVICE int first_block() const { return sender() % kWaveBlocks; }
  GRU_DEVICE int first_pair() const { return sender() / kWaveBlocks; }

  // In a buffer, where the block and pair that the thread begins with have the first of the units that it has gathered.
  GRU_DEVICE int place_of(const TeamThread<Traits>& self) const {
    const int row = self.row_of_pair(first_pair()), unit = self.unit_of_pairs() - 2 * sender();
    return row * Traits::kPitch + unit / kValuesPerWord<typename Traits::T> + first_block() * kUnitWords;
  }

  GRU_DEVICE void send_wave(int s, int wave) {
    constexpr int kPackets = kPairs * kWaveBlocks;
    const int packets_sent = GRU_FAULT(forgets_a_block, kPackets, kPackets - 1);
    uint32_t* const buffer = this->of_next_step(s) + place;
    GRU_UNROLL
    for (int i = 0; i < kPackets; i += kSenders) {
      const int pair = i / kWaveBlocks, turn = wave * kWaveBlocks + i % kWaveBlocks;  // from the thread's first
      if ((kPackets % kSenders != 0 || packets_sent < kPackets) && i + sender() >= packets_sent) continue;
      if (!Traits::kAllKeep && lacks_row) continue;
      const int block = rank - turn - first_block();
      store_async(buffer + turn * kUnitWords + Traits::row_of_place(pair) * Traits::kPitch, of_wave(s, wave),
                  block < 0 ? block + C : block, packets[pair / kLanePairs]);
    }
  }
};

}  // namespace device
}  // namespace gru_ext
