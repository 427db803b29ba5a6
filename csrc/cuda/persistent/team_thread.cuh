// Where a thread is of a kernel whose warps form teams, one for every 16 units of the block: the forward in a cluster
// or a group of blocks, and the backward in a group of blocks.
#pragma once

#include "cuda/persistent/rows.cuh"
#include "cuda/persistent/types.cuh"

namespace gru_ext {
namespace device {

// A thread: where it is in its block, and what the block works on.
template <typename Traits>
struct TeamThread : ThreadPlace {
  int team, part;  // of warps: that of its units; which part of the sum
  int rank;        // of the block in its cluster, or its group of blocks
  int cluster;     // or group of blocks, of the call
  BlockWork work;

  template <typename Params>
  GRU_DEVICE explicit TeamThread(const Params& p, int thread_of_block = thread_index(), int block = block_index())
      : ThreadPlace(thread_of_block) {
    constexpr int C = Traits::kC;
    team = thread / kWarpSize % Traits::kTeams;
    part = thread / kWarpSize / Traits::kTeams;
    rank = Traits::kExchange == Exchange::cluster ? cluster_rank() : block % C;
    cluster = (Traits::kExchange == Exchange::packets ? p.first_group : 0) + block / C;
    work = work_of(p, cluster, Traits::kRows, rank * Traits::kUnits);
  }

  // Forward, of its pairs: which row each is of, and the first unit of all, within the block.
  GRU_DEVICE int row_of_pair(int e) const { return Traits::row_of_place(part * Traits::kPairs + e) + 2 * c; }
  GRU_DEVICE int unit_of_pairs() const { return team * 16 + 2 * g; }

  // Of the units as the block has them in a row of h: in a cluster those of its own come first, then those of the
  // blocks after it, in a ring.
  GRU_DEVICE int unit_of_place(int place) const {
    const int unit = place + (Traits::kExchange == Exchange::cluster ? work.unit0 : 0);
    return unit < Traits::kHidden ? unit : unit - Traits::kHidden;
  }
};

}  // namespace device
}  // namespace gru_ext
