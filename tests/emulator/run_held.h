// Runs the cluster and group kernels; included by a file for each family, so that they compile at once.
// GRU_EMULATOR_SMALL leaves out what tests do not run under sanitizers.
#pragma once

#include "cuda/persistent/cluster/cluster_bwd.cuh"
#include "cuda/persistent/cluster/cluster_fwd.cuh"
#include "cuda/persistent/cluster/configs.h"
#include "cuda/persistent/group/configs.h"
#include "cuda/persistent/group/group_bwd.cuh"
#include "cuda/persistent/group/group_fwd.cuh"
#include "held_shape.h"
#include "persistent_parameters.h"

namespace gru_ext::emulator {
namespace {

using device::bfloat16;
using device::float16;
using device::ieee;

// A run of `kernel`, a template of its traits and of whether gates are saved; `cluster` blocks share memory.
#define GRU_RUN_FWD(kernel, cluster)                                                                          \
  template <typename Traits>                                                                                  \
  void run_##kernel() {                                                                                       \
    const auto p = fwd_parameters<typename Traits::T>();                                                      \
    const auto run =                                                                                          \
        p.gates ? device::gru_##kernel##_kernel<Traits, true> : device::gru_##kernel##_kernel<Traits, false>; \
    launch(shape_of<Traits>("gru_" #kernel, p.B, p.D, cluster), [&] { run(p); });                             \
  }
#define GRU_RUN_BWD(kernel, cluster)                                                                                \
  template <typename Traits>                                                                                        \
  void run_##kernel() {                                                                                             \
    const auto p = bwd_parameters<typename Traits::T>();                                                            \
    launch(shape_of<Traits>("gru_" #kernel, p.B, p.D, cluster), [&] { device::gru_##kernel##_kernel<Traits>(p); }); \
  }
GRU_RUN_FWD(cluster_fwd, Traits::kC)
GRU_RUN_FWD(group_fwd, 1)
GRU_RUN_BWD(cluster_bwd, Traits::kC)
GRU_RUN_BWD(group_bwd, 1)

// Makes an instantiation known by its name; the last argument is its traits.
#define GRU_HELD(kernel, T, hidden, C, rows, ...)                                                               \
  const Kernel kernel##_##T##_##hidden##_##C##_##rows("gru_" #kernel "_" #T "_H" #hidden "_C" #C "_rows" #rows, \
                                                      run_##kernel<device::__VA_ARGS__>);
#define GRU_CLUSTER_FWD(T, hidden, C, rows, ...) \
  GRU_HELD(cluster_fwd, T, hidden, C, rows, GruClusterFwdTraits<T, hidden, C, rows, __VA_ARGS__>)
#define GRU_GROUP_FWD(T, hidden, C, rows, ...) \
  GRU_HELD(group_fwd, T, hidden, C, rows,      \
           GruClusterFwdTraits<T, hidden, C, rows, __VA_ARGS__, device::Exchange::packets>)
#define GRU_CLUSTER_BWD(T, hidden, C, rows, ...) \
  GRU_HELD(cluster_bwd, T, hidden, C, rows, GruClusterBwdTraits<T, hidden, C, rows, __VA_ARGS__>)
#define GRU_GROUP_BWD(T, hidden, C, rows, ...) \
  GRU_HELD(group_bwd, T, hidden, C, rows, GruGroupBwdTraits<T, hidden, C, rows, __VA_ARGS__>)

}  // namespace
}  // namespace gru_ext::emulator
