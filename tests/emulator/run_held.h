// Runs the cluster and group kernels; included by a file for each family, so that they compile at once. Each has its
// own GRU_FWD and GRU_BWD, which make an instantiation known.
// GRU_EMULATOR_SMALL leaves out what tests do not run under sanitizers.
#pragma once

#include "cuda/persistent/cluster/cluster_bwd.cuh"
#include "cuda/persistent/cluster/cluster_fwd.cuh"
#include "cuda/persistent/cluster/configs.h"
#include "cuda/persistent/group/configs.h"
#include "cuda/persistent/group/group_bwd.cuh"
#include "cuda/persistent/group/group_fwd.cuh"
#include "persistent_parameters.h"

namespace gru_ext::emulator {
namespace {

using device::bfloat16;
using device::float16;
using device::ieee;

template <typename Traits, typename Parameters>
void run_held(const char* name, const Parameters& p, void (*kernel)(Parameters)) {
  const int tiles = (p.B + Traits::kRows - 1) / Traits::kRows;
  const int cluster = Traits::kExchange == device::Exchange::packets ? 1 : Traits::kC;
  launch({name, p.D * tiles * Traits::kC, cluster, Traits::kThreads, Traits::kSharedBytes}, [&] { kernel(p); });
}

// By its name; `instance` is the kernel for parameters `p`, the last argument its traits.
#define GRU_HELD(kernel, parameters, instance, operand, hidden, C, rows, ...) \
  const Kernel kernel##_##operand##_##hidden##_##C##_##rows(                  \
      "gru_" #kernel "_" #operand "_H" #hidden "_C" #C "_rows" #rows, [] {    \
        using Traits = device::__VA_ARGS__;                                   \
        const auto p = parameters<Traits::T>();                               \
        run_held<Traits>("gru_" #kernel, p, instance);                        \
      });
#define GRU_HELD_FWD(kernel, ...)                                                                                  \
  GRU_HELD(kernel, fwd_parameters,                                                                                 \
           (p.gates ? device::gru_##kernel##_kernel<Traits, true> : device::gru_##kernel##_kernel<Traits, false>), \
           __VA_ARGS__)
#define GRU_HELD_BWD(kernel, ...) GRU_HELD(kernel, bwd_parameters, device::gru_##kernel##_kernel<Traits>, __VA_ARGS__)

#define GRU_BFLOAT16_FWD(...) GRU_FWD(bfloat16, __VA_ARGS__)
#define GRU_BFLOAT16_BWD(...) GRU_BWD(bfloat16, __VA_ARGS__)
#define GRU_FLOAT_FWD(...) GRU_FWD(float, __VA_ARGS__)
#define GRU_FLOAT_BWD(...) GRU_BWD(float, __VA_ARGS__)
#define GRU_IEEE_FWD(...) GRU_FWD(ieee, __VA_ARGS__)
#define GRU_IEEE_BWD(...) GRU_BWD(ieee, __VA_ARGS__)

}  // namespace
}  // namespace gru_ext::emulator
