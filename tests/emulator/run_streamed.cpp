// Runs the streamed kernels.
#include "cuda/primitives.cuh"

#include "cuda/persistent/streamed/configs.h"
#include "cuda/persistent/streamed/streamed_bwd.cuh"
#include "cuda/persistent/streamed/streamed_fwd.cuh"
#include "persistent_parameters.h"

namespace gru_ext::emulator {
namespace {

using device::bfloat16;
using device::float16;

// One launch of all groups, whose blocks have so much shared memory that as many slabs of a slice as the number
// "shared_slabs" says stay there, the others are streamed; -1: all stay.
template <typename Traits, typename Parameters, typename Kernel>
void run_streamed(const char* name, Parameters p, const Kernel& kernel) {
  const int kept = static_cast<int>(number("shared_slabs"));
  const int places = kept < 0 ? 1000 : kept + Traits::kWeightStages;
  const StreamedShape shape = device::streamed_shape<Traits>(p.H, Traits::kWeightOffset + places * Traits::kSlabBytes);
  const int groups = p.D * ((p.B + Traits::kRows - 1) / Traits::kRows);
  p.streamed = streamed_share(shape);
  launch({name, groups * shape.blocks, shape.blocks, Traits::kThreads, static_cast<size_t>(shape.shared_bytes)},
         [&] { kernel(p); });
}

// Makes an instantiation known by its name; the last argument is its traits.
#define GRU_STREAMED(kernel, parameters, T, units, rows, ...)                                            \
  const Kernel kernel##_##T##_##units##_##rows("gru_" #kernel "_" #T "_U" #units "_rows" #rows, [] {     \
    using Traits = device::__VA_ARGS__;                                                                  \
    run_streamed<Traits>("gru_" #kernel, parameters<T>(), device::gru_##kernel##_kernel<Traits, false>); \
  });
#define GRU_STREAMED_FWD(T, units, rows, ...) \
  GRU_STREAMED(streamed_fwd, fwd_parameters, T, units, rows, GruStreamedFwdTraits<T, units, rows, __VA_ARGS__>)
#define GRU_STREAMED_BWD(T, units, rows, ...) \
  GRU_STREAMED(streamed_bwd, bwd_parameters, T, units, rows, GruStreamedBwdTraits<T, units, rows, __VA_ARGS__>)

#if !defined(GRU_EMULATOR_SMALL)
#define GRU_BFLOAT16_FWD(...) GRU_STREAMED_FWD(bfloat16, __VA_ARGS__)
#define GRU_FLOAT_FWD(...) GRU_STREAMED_FWD(float, __VA_ARGS__)
#define GRU_BFLOAT16_BWD(...) GRU_STREAMED_BWD(bfloat16, __VA_ARGS__)
#define GRU_FLOAT_BWD(...) GRU_STREAMED_BWD(float, __VA_ARGS__)
GRU_STREAMED_FWD_16BIT(GRU_BFLOAT16_FWD)
GRU_STREAMED_FWD_TF32(GRU_FLOAT_FWD)
GRU_STREAMED_BWD_16BIT(GRU_BFLOAT16_BWD)
GRU_STREAMED_BWD_TF32(GRU_FLOAT_BWD)
// Few warps, for tests of many schedules.
GRU_STREAMED_FWD(bfloat16, 16, 8, 2, 1, 1, 2, 2)
GRU_STREAMED_FWD(bfloat16, 48, 16, 2, 3, 1, 3, 3)
GRU_STREAMED_FWD(float16, 32, 16, 2, 2, 1, 3, 3)
GRU_STREAMED_FWD(float, 48, 8, 2, 3, 1, 3, 2)
GRU_STREAMED_BWD(bfloat16, 16, 8, 2, 1, 1, 2, 2)
GRU_STREAMED_BWD(bfloat16, 48, 16, 2, 3, 1, 3, 3)
GRU_STREAMED_BWD(float16, 32, 16, 2, 2, 1, 3, 3)
GRU_STREAMED_BWD(float, 48, 8, 2, 3, 1, 3, 2)
#endif

}  // namespace
}  // namespace gru_ext::emulator
