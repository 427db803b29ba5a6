// How blocks that share out R tell each other of the hidden state h, see cluster_fwd.cuh: within one block, and in a
// cluster. In a group: group/group_fwd.cuh.
#pragma once

#include "cuda/persistent/cluster/fwd_thread.cuh"
#include "cuda/persistent/fwd_pair.cuh"

namespace gru_ext {
namespace device {

// The h of all units of the layer, of the rows of the tile, as operand words: (2, rows, kPitch) in shared memory, of
// even and odd steps.
template <typename Traits>
struct StateBuffers {
  using Words = PairWords<typename Traits::Operand>;
  uint32_t* state;
  int unit0;  // the block's first

  GRU_DEVICE explicit StateBuffers(const BlockWork& work)
      : state(reinterpret_cast<uint32_t*>(shared_memory() + Traits::kStateOffset)), unit0(work.unit0) {}

  GRU_DEVICE uint32_t* of_step(int s) const { return state + s % 2 * Traits::kRows * Traits::kPitch; }

  // The words of a pair of the block's.
  GRU_DEVICE uint32_t* of_pair(const FwdPair<typename Traits::T>& pair, int s) const {
    const int buffer = GRU_FAULT(one_buffer, s % 2, (s + 1) % 2);
    return of_step(buffer) + pair.row * Traits::kPitch + (unit0 + pair.unit) / kValuesPerWord<typename Traits::T>;
  }
};

// All threads call each of these: `begin` first, `meet` when the first h is in place, `wait` before the products of a
// step, `send` when they have the h of a pair for step s, or none, and `end` when they are done. `wait` returns whether
// all of h has come, as far as this thread knows.
template <typename Traits, Exchange = Traits::kExchange>
struct StateExchange;

template <typename Traits>
struct StateExchange<Traits, Exchange::none> : StateBuffers<Traits> {
  using Words = typename StateBuffers<Traits>::Words;

  GRU_DEVICE StateExchange(const PersistentFwdParams<typename Traits::T>&, const FwdThread<Traits>& self)
      : StateBuffers<Traits>(self.work) {}

  GRU_DEVICE void begin() {}
  GRU_DEVICE void meet() { GRU_FAULT(no_barrier_before_first_step, block_barrier(), void()); }
  GRU_DEVICE bool wait(int, uint32_t) {
    GRU_FAULT(no_block_barrier, block_barrier(), void());
    return true;
  }
  GRU_DEVICE void send(const FwdPair<typename Traits::T>& pair, int s) {
    if (pair.row >= Traits::kRows) return;
    const Words words = Words::of(pair.h[0], pair.h[1]);
    uint32_t* const to = this->of_pair(pair, s);
    GRU_UNROLL
    for (int w = 0; w < Words::count; ++w) store_shared(to + w, words.word[w]);
  }
  GRU_DEVICE void end() {}
};

// By asynchronous stores to every block, 16 bytes at a time, of which each block's mbarrier counts the bytes.
template <typename Traits>
struct StateExchange<Traits, Exchange::cluster> : StateBuffers<Traits> {
  using Words = typename StateBuffers<Traits>::Words;
  uint64_t* mbarriers;  // one for each buffer
  int thread, lane, rank;

  GRU_DEVICE StateExchange(const PersistentFwdParams<typename Traits::T>&, const FwdThread<Traits>& self)
      : StateBuffers<Traits>(self.work),
        mbarriers(reinterpret_cast<uint64_t*>(shared_memory() + Traits::kMbarrierOffset)),
        thread(self.thread),
        lane(self.lane),
        rank(self.rank) {}

  GRU_DEVICE void begin() {
    if (thread != 0) return;
    GRU_UNROLL
    for (int i = 0; i < 2; ++i) {
      mbarrier_init(mbarriers + i, 1);
      mbarrier_arrive_expect(mbarriers + i, Traits::kExchangeBytes);
    }
    GRU_FAULT(no_mbarrier_fence, mbarrier_init_fence(), void());
  }

  GRU_DEVICE void meet() { GRU_FAULT(no_cluster_barrier, cluster_barrier(), void()); }

  GRU_DEVICE bool wait(int s, uint32_t limit) {
    const int parity = GRU_FAULT(wrong_parity, (s - 1) / 2 % 2, s / 2 % 2);
    if (!mbarrier_wait(mbarriers + s % 2, parity, limit)) return false;
    const bool second = GRU_FAULT(two_arrivals, false, thread == kWarpSize);
    const int missing = GRU_FAULT(too_few_bytes, 0, 16), excess = GRU_FAULT(too_many_bytes, 0, 16);
    if (thread == 0 || second) {
      mbarrier_arrive_expect(mbarriers + s % 2, Traits::kExchangeBytes - missing + excess);
    }
    return true;
  }

  GRU_DEVICE void send(const FwdPair<typename Traits::T>& pair, int s) {
    // As many threads as fill 16 bytes gather them, and share out the blocks to send them to.
    constexpr int C = Traits::kC, kSenders = 4 / Words::count;
    const Words words = Words::of(pair.h[0], pair.h[1]);
    const int sender = lane % kSenders;
    const bool gathers = GRU_FAULT(divergent_shuffle, true, pair.existing(0) > 0);
    uint32_t packet[4];
    GRU_UNROLL
    for (int w = 0; w < 4 && gathers; ++w) {
      packet[w] = shuffle(words.word[w % Words::count], lane - sender + w / Words::count);
    }
    // Whoever gets the packet knows that all threads whose values are in it have read their sums.
    GRU_FAULT(no_warp_barrier, warp_barrier(), void());
    if (pair.row >= Traits::kRows) return;
    uint32_t* const to = this->of_pair(pair, s) - sender * Words::count;
    const int receivers = GRU_FAULT(forgets_a_block, C, C - 1);
    GRU_UNROLL
    for (int i = 0; i < (C + kSenders - 1) / kSenders; ++i) {
      const int turn = i * kSenders + sender;
      if (turn < receivers) {
        const int block = turn + rank < C ? turn + rank : turn + rank - C;  // each block begins with another
        store_async(to, mbarriers + s % 2, block, u32x4{packet[0], packet[1], packet[2], packet[3]});
      }
    }
  }

  GRU_DEVICE void end() { cluster_barrier(); }
};

}  // namespace device
}  // namespace gru_ext
