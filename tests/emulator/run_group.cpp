#include "run_held.h"

namespace gru_ext::emulator {
namespace {

#if !defined(GRU_EMULATOR_SMALL)
#define GRU_BFLOAT16_FWD(...) GRU_GROUP_FWD(bfloat16, __VA_ARGS__)
#define GRU_FLOAT_FWD(...) GRU_GROUP_FWD(float, __VA_ARGS__)
#define GRU_FP32_FWD(...) GRU_GROUP_FWD(ieee, __VA_ARGS__)
#define GRU_BFLOAT16_BWD(...) GRU_GROUP_BWD(bfloat16, __VA_ARGS__)
#define GRU_FLOAT_BWD(...) GRU_GROUP_BWD(float, __VA_ARGS__)
#define GRU_FP32_BWD(...) GRU_GROUP_BWD(ieee, __VA_ARGS__)
GRU_GROUP_FWD_16BIT(GRU_BFLOAT16_FWD)
GRU_GROUP_FWD_TF32(GRU_FLOAT_FWD)
GRU_GROUP_FWD_IEEE(GRU_FP32_FWD)
GRU_GROUP_BWD_16BIT(GRU_BFLOAT16_BWD)
GRU_GROUP_BWD_TF32(GRU_FLOAT_BWD)
GRU_GROUP_BWD_IEEE(GRU_FP32_BWD)
// Small groups, for tests of many schedules.
GRU_GROUP_FWD(bfloat16, 64, 2, 8, 4, 2)
GRU_GROUP_FWD(float16, 64, 4, 16, 2, 2)
GRU_GROUP_FWD(float, 64, 4, 16, 2, 4)
GRU_GROUP_FWD(ieee, 64, 4, 16, 2, 4)
GRU_GROUP_BWD(bfloat16, 64, 2, 8, 4, 2)
GRU_GROUP_BWD(float16, 64, 4, 16, 2, 2)
GRU_GROUP_BWD(float, 64, 4, 16, 2, 4)
GRU_GROUP_BWD(ieee, 64, 4, 16, 2, 4)
#endif
GRU_GROUP_FWD(bfloat16, 64, 4, 16, 2, 2)
GRU_GROUP_BWD(bfloat16, 64, 4, 16, 2, 2)

}  // namespace
}  // namespace gru_ext::emulator
