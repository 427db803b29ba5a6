#include "run_held.h"

namespace gru_ext::emulator {
namespace {

#define GRU_FWD(T, hidden, C, rows, ...)      \
  GRU_HELD_FWD(group_fwd, T, hidden, C, rows, \
               GruClusterFwdTraits<T, hidden, C, rows, __VA_ARGS__, device::Exchange::packets>)
#define GRU_BWD(T, hidden, C, rows, ...) \
  GRU_HELD_BWD(group_bwd, T, hidden, C, rows, GruGroupBwdTraits<T, hidden, C, rows, __VA_ARGS__>)
#if !defined(GRU_EMULATOR_SMALL)
GRU_GROUP_FWD_16BIT(GRU_BFLOAT16_FWD)
GRU_GROUP_FWD_TF32(GRU_FLOAT_FWD)
GRU_GROUP_FWD_IEEE(GRU_IEEE_FWD)
GRU_GROUP_BWD_16BIT(GRU_BFLOAT16_BWD)
GRU_GROUP_BWD_TF32(GRU_FLOAT_BWD)
GRU_GROUP_BWD_IEEE(GRU_IEEE_BWD)
// Small groups, for tests of many schedules.
GRU_FWD(bfloat16, 64, 2, 8, 4, 2)
GRU_FWD(float16, 64, 4, 16, 2, 2)
GRU_FWD(float, 64, 4, 16, 2, 4)
GRU_FWD(ieee, 64, 4, 16, 2, 4)
GRU_BWD(bfloat16, 64, 2, 8, 4, 2)
GRU_BWD(float16, 64, 4, 16, 2, 2)
GRU_BWD(float, 64, 4, 16, 2, 4)
GRU_BWD(ieee, 64, 4, 16, 2, 4)
#endif
GRU_FWD(bfloat16, 64, 4, 16, 2, 2)
GRU_BWD(bfloat16, 64, 4, 16, 2, 2)

}  // namespace
}  // namespace gru_ext::emulator
