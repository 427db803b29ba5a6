#include "run_held.h"

namespace gru_ext::emulator {
namespace {

#define GRU_FWD(T, hidden, C, rows, ...) \
  GRU_HELD_FWD(cluster_fwd, T, hidden, C, rows, GruClusterFwdTraits<T, hidden, C, rows, __VA_ARGS__>)
#define GRU_BWD(T, hidden, C, rows, ...) \
  GRU_HELD_BWD(cluster_bwd, T, hidden, C, rows, GruClusterBwdTraits<T, hidden, C, rows, __VA_ARGS__>)
#if !defined(GRU_EMULATOR_SMALL)
GRU_CLUSTER_FWD_16BIT(GRU_BFLOAT16_FWD)
GRU_CLUSTER_FWD_TF32(GRU_FLOAT_FWD)
GRU_CLUSTER_FWD_IEEE(GRU_IEEE_FWD)
GRU_CLUSTER_BWD_16BIT(GRU_BFLOAT16_BWD)
GRU_CLUSTER_BWD_TF32(GRU_FLOAT_BWD)
GRU_CLUSTER_BWD_IEEE(GRU_IEEE_BWD)
// Small clusters, for tests of many schedules.
GRU_FWD(bfloat16, 64, 2, 8, 4, 2)
GRU_FWD(float16, 64, 1, 8, 4, 4)
GRU_FWD(float16, 64, 4, 16, 2, 2)
GRU_FWD(float, 64, 4, 16, 2, 4)
GRU_FWD(ieee, 64, 4, 16, 2, 4)
GRU_BWD(bfloat16, 64, 2, 8, 4, 4)
GRU_BWD(float16, 64, 1, 8, 4, 12)
GRU_BWD(float16, 64, 4, 16, 2, 3)
GRU_BWD(float, 64, 4, 16, 2, 6)
GRU_BWD(ieee, 64, 4, 16, 2, 6)
#else
GRU_FWD(bfloat16, 64, 1, 8, 8, 2)
GRU_BWD(bfloat16, 64, 1, 8, 8, 6)
#endif
GRU_FWD(bfloat16, 64, 4, 16, 2, 2)
GRU_BWD(bfloat16, 64, 4, 16, 2, 3)

}  // namespace
}  // namespace gru_ext::emulator
