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
};

}  // namespace device
}  // namespace gru_ext
