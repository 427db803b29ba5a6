// Runs the cluster-persistent kernels; included by a file for each direction and dtype, so that they compile at once.
#pragma once

#include "cuda/persistent/cluster/cluster_bwd.cuh"
#include "cuda/persistent/cluster/cluster_fwd.cuh"
#include "cuda/persistent/group/group_bwd.cuh"
#include "cuda/persistent/group/group_fwd.cuh"
#include "gru_cluster_shape.h"
#include "persistent_parameters.h"

namespace gru_ext {
namespace emulator {

namespace {

template <typename Traits>
void run_fwd() {
  const auto p = fwd_parameters<typename Traits::T>();
  launch(shape_of<Traits>("gru_cluster_fwd", p.B, p.D), [&] {
    if (p.gates) {
      device::gru_cluster_fwd_kernel<Traits, true>(p);
    } else {
      device::gru_cluster_fwd_kernel<Traits, false>(p);
    }
  });
}

template <typename Traits>
void run_group_fwd() {
  const auto p = fwd_parameters<typename Traits::T>();
  launch(shape_of<Traits>("gru_group_fwd", p.B, p.D, /*cluster=*/1), [&] {
    if (p.gates) {
      device::gru_group_fwd_kernel<Traits, true>(p);
    } else {
      device::gru_group_fwd_kernel<Traits, false>(p);
    }
  });
}

template <typename Traits>
void run_bwd() {
  const auto p = bwd_parameters<typename Traits::T>();
  launch(shape_of<Traits>("gru_cluster_bwd", p.B, p.D), [&] { device::gru_cluster_bwd_kernel<Traits>(p); });
}

template <typename Traits>
void run_group_bwd() {
  const auto p = bwd_parameters<typename Traits::T>();
  launch(shape_of<Traits>("gru_group_bwd", p.B, p.D, /*cluster=*/1), [&] { device::gru_group_bwd_kernel<Traits>(p); });
}

#define GRU_FWD(T, hidden, C, rows, warps, tiles)               \
  const Kernel fwd_##T##_##hidden##_##C##_##rows(               \
      "gru_cluster_fwd_" #T "_H" #hidden "_C" #C "_rows" #rows, \
      run_fwd<device::GruClusterFwdTraits<T, hidden, C, rows, warps, tiles>>);
#define GRU_GROUP_FWD(T, hidden, C, rows, warps, tiles)       \
  const Kernel group_fwd_##T##_##hidden##_##C##_##rows(       \
      "gru_group_fwd_" #T "_H" #hidden "_C" #C "_rows" #rows, \
      run_group_fwd<device::GruClusterFwdTraits<T, hidden, C, rows, warps, tiles, device::Exchange::packets>>);
#define GRU_BWD(T, hidden, C, rows, warps, tiles)               \
  const Kernel bwd_##T##_##hidden##_##C##_##rows(               \
      "gru_cluster_bwd_" #T "_H" #hidden "_C" #C "_rows" #rows, \
      run_bwd<device::GruClusterBwdTraits<T, hidden, C, rows, warps, tiles>>);
#define GRU_GROUP_BWD(T, hidden, C, rows, warps, tiles)       \
  const Kernel group_bwd_##T##_##hidden##_##C##_##rows(       \
      "gru_group_bwd_" #T "_H" #hidden "_C" #C "_rows" #rows, \
      run_group_bwd<device::GruGroupBwdTraits<T, hidden, C, rows, warps, tiles>>);
}  // namespace

}  // namespace emulator
}  // namespace gru_ext
