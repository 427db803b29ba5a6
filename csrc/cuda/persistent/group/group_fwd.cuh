// The group-persistent forward: the cluster-persistent one (cluster_fwd.cuh), for an R that is too large for a cluster,
// and for GPUs without clusters. Its C blocks are any of the grid that run at the same time.
//
// A block sends its units of h' once, as packets in global memory, which here means the L2 cache, and every block
// fetches all of h: its threads wait for the packets, put them into shared memory, and a block barrier ends that. Two
// buffers are enough: a block that sends h(s + 1) has had all of h(s), whose senders had fetched h(s - 1).
#pragma once

#include "cuda/persistent/cluster/cluster_fwd.cuh"

namespace gru_ext {
namespace device {

template <typename Traits>
struct StateExchange<Traits, Exchange::packets> : StateBuffers<Traits> {
  using Words = typename StateBuffers<Traits>::Words;
  uint64_t* packets;  // (2, rows, kWords): a word, and of which step it is
  int thread, unit0;

  GRU_DEVICE StateExchange(const PersistentFwdParams<typename Traits::T>& p, const TeamThread<Traits>& self)
      : packets(p.packets + static_cast<int64_t>(self.cluster) * Traits::kPackets),
        thread(self.thread),
        unit0(self.work.unit0) {}

  GRU_DEVICE void begin() {}
  GRU_DEVICE void meet() { GRU_FAULT(no_barrier_before_first_step, block_barrier(), void()); }

  GRU_DEVICE bool wait(int s, int, uint32_t limit) {
    if (s == 0) return true;
    constexpr int kTwos = Traits::kRows * Traits::kWords / 2, kAtOnce = 4;
    const uint32_t tag = GRU_FAULT(wrong_tag, s, s < 2 ? s : s - 2);
    const uint64_t* const from = packets + s % 2 * Traits::kRows * Traits::kWords;
    uint32_t* const state = this->of_step(s);
    bool failed = false;
    for (int first = thread; first < kTwos && !failed; first += kAtOnce * Traits::kThreads) {
      const uint64_t* fetched[kAtOnce];
      u32x4 values[kAtOnce];
      GRU_UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        const int two = first + i * Traits::kThreads;
        fetched[i] = from + (two < kTwos ? two : first) * 2;
      }
      failed = !wait_for_packets(values, fetched, tag, limit);
      GRU_UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        const int two = first + i * Traits::kThreads;
        if (two >= kTwos) continue;
        uint32_t* const to = state + two * 2 / Traits::kWords * Traits::kPitch + two * 2 % Traits::kWords;
        store_shared(reinterpret_cast<u32x2*>(to), u32x2{values[i].x, values[i].z});
      }
    }
    return !GRU_FAULT(no_barrier_after_packets, block_barrier_or(failed), failed);
  }

  GRU_DEVICE void take(const FwdPair<typename Traits::T>& pair, int s, int) {
    if (!Traits::kAllKeep && pair.row >= Traits::kRows) return;
    const Words words = Words::of(pair.h[0], pair.h[1]);
    const int buffer = GRU_FAULT(one_packet_buffer, s % 2, 0);
    uint64_t* const to = packets + (buffer * Traits::kRows + pair.row) * Traits::kWords +
                         (unit0 + pair.unit) / kValuesPerWord<typename Traits::T>;
    GRU_UNROLL
    for (int w = 0; w < Words::count; ++w) store_packet(to + w, words.word[w], static_cast<uint32_t>(s));
  }

  GRU_DEVICE void send(int) {}
  GRU_DEVICE void send_rest(int) {}
  GRU_DEVICE void expect_next(int) {}
  GRU_DEVICE void end() {}
};

template <typename Traits, bool kSaveGates>
GRU_KERNEL(Traits::kThreads, 1)
gru_group_fwd_kernel(const PersistentFwdParams<typename Traits::T> p) {
  if constexpr (kHasAsyncCopies) gru_cluster_fwd<Traits, kSaveGates>(p);
}

}  // namespace device
}  // namespace gru_ext
