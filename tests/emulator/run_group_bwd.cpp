#include "run_held.h"

namespace gru_ext::emulator {
namespace {

#if !defined(GRU_EMULATOR_SMALL)
#define GRU_BFLOAT16(...) GRU_GROUP_BWD(bfloat16, __VA_ARGS__)
#define GRU_FLOAT(...) GRU_GROUP_BWD(float, __VA_ARGS__)
#define GRU_FP32(...) GRU_GROUP_BWD(ieee, __VA_ARGS__)
GRU_GROUP_BWD_16BIT(GRU_BFLOAT16)
GRU_GROUP_BWD_TF32(GRU_FLOAT)
GRU_GROUP_BWD_IEEE(GRU_FP32)
#endif
// Small groups, for tests of many schedules.
GRU_GROUP_BWD(bfloat16, 64, 2, 8, 4, 2)
GRU_GROUP_BWD(bfloat16, 64, 4, 16, 2, 2)
GRU_GROUP_BWD(float16, 64, 4, 16, 2, 2)
GRU_GROUP_BWD(float, 64, 4, 16, 2, 4)
GRU_GROUP_BWD(ieee, 64, 4, 16, 2, 4)

}  // namespace
}  // namespace gru_ext::emulator
