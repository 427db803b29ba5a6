// Where a thread of the cluster- and group-persistent forward is.
#pragma once

#include "cuda/persistent/rows.cuh"
#include "cuda/persistent/types.cuh"

namespace gru_ext {
namespace device {

// A thread: where it is in its block, and what the block works on.
template <typename Traits>
struct FwdThread : ThreadPlace {
  int group, part;  // of warps: that of its units; which part of the sum
  int rank;         // of the block in its cluster, or its group of blocks
  int cluster;      // of the call
  BlockWork work;

  GRU_DEVICE explicit FwdThread(const PersistentFwdParams<typename Traits::T>& p) {
    constexpr int C = Traits::kC;
    group = thread / kWarpSize % Traits::kGroups;
    part = thread / kWarpSize / Traits::kGroups;
    rank = Traits::kExchange == Exchange::cluster ? cluster_rank() : block_index() % C;
    cluster = (Traits::kExchange == Exchange::packets ? p.first_group : 0) + block_index() / C;
    work = work_of(p, cluster, Traits::kRows, rank * Traits::kUnits);
  }

  // Of its pairs: which row each is of, and the first unit of all, within the block. Half a warp has two rows that are
  // 4 apart, whose sums are in other banks.
  GRU_DEVICE int row_of_pair(int e) const {
    const int i = (part * kWarpSize + lane + e * Traits::kGroupThreads) / 8;
    return i / 8 * 8 + i % 2 * 4 + i % 8 / 2;
  }
  GRU_DEVICE int unit_of_pairs() const { return group * 16 + lane % 8 * 2; }

  // Of the units as the block has them in a row of h: in a cluster those of its own come first, then those of the
  // blocks after it, in a ring.
  GRU_DEVICE int unit_of_place(int place) const {
    const int unit = place + (Traits::kExchange == Exchange::cluster ? work.unit0 : 0);
    return unit < Traits::kHidden ? unit : unit - Traits::kHidden;
  }
};

}  // namespace device
}  // namespace gru_ext
