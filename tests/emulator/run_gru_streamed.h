// Runs the streamed kernels; included by a file for each pass, so that they compile at once.
#pragma once

#include "cuda/primitives.cuh"

#include "cuda/persistent/streamed/streamed_bwd.cuh"
#include "cuda/persistent/streamed/streamed_fwd.cuh"
#include "persistent_parameters.h"

namespace gru_ext {
namespace emulator {

namespace {

// One launch of all groups, whose blocks have so much shared memory that as many slabs of a slice as the number
// "shared_slabs" says stay there, the others are streamed; -1: all stay.
template <typename Traits, typename Parameters, typename Kernel>
void run_streamed(const char* name, Parameters p, const Kernel& kernel) {
  const int kept = static_cast<int>(number("shared_slabs"));
  const int places = kept < 0 ? 1000 : kept + Traits::kWeightStages;
  const StreamedShape shape = device::streamed_shape<Traits>(p.H, Traits::kWeightOffset + places * Traits::kSlabBytes);
  const int groups = p.D * ((p.B + Traits::kRows - 1) / Traits::kRows);
  p.streamed = streamed_share(shape, groups);
  launch({name, groups * shape.blocks, shape.blocks, Traits::kThreads, static_cast<size_t>(shape.shared_bytes)},
         [&] { kernel(p); });
}

template <typename Traits>
void run_streamed_fwd() {
  run_streamed<Traits>("gru_streamed_fwd", fwd_parameters<typename Traits::T>(),
                       [](const auto& p) { device::gru_streamed_fwd_kernel<Traits, false>(p); });
}

template <typename Traits>
void run_streamed_bwd() {
  run_streamed<Traits>("gru_streamed_bwd", bwd_parameters<typename Traits::T>(),
                       [](const auto& p) { device::gru_streamed_bwd_kernel<Traits, false>(p); });
}

#define GRU_STREAMED_FWD(T, units, rows, slices, parts, slabs, weight_stages, operand_stages) \
  const Kernel streamed_fwd_##T##_##units##_##rows(                                           \
      "gru_streamed_fwd_" #T "_U" #units "_rows" #rows,                                       \
      run_streamed_fwd<                                                                       \
          device::GruStreamedFwdTraits<T, units, rows, slices, parts, slabs, weight_stages, operand_stages>>);
#define GRU_STREAMED_BWD(T, units, rows, slices, parts, slabs, weight_stages, operand_stages) \
  const Kernel streamed_bwd_##T##_##units##_##rows(                                           \
      "gru_streamed_bwd_" #T "_U" #units "_rows" #rows,                                       \
      run_streamed_bwd<                                                                       \
          device::GruStreamedBwdTraits<T, units, rows, slices, parts, slabs, weight_stages, operand_stages>>);
}  // namespace

}  // namespace emulator
}  // namespace gru_ext
