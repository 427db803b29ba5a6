#include "run_held.h"

namespace gru_ext::emulator {
namespace {

#if !defined(GRU_EMULATOR_SMALL)
#define GRU_BFLOAT16_FWD(...) GRU_CLUSTER_FWD(bfloat16, __VA_ARGS__)
#define GRU_FLOAT_FWD(...) GRU_CLUSTER_FWD(float, __VA_ARGS__)
#define GRU_FP32_FWD(...) GRU_CLUSTER_FWD(ieee, __VA_ARGS__)
#define GRU_BFLOAT16_BWD(...) GRU_CLUSTER_BWD(bfloat16, __VA_ARGS__)
#define GRU_FLOAT_BWD(...) GRU_CLUSTER_BWD(float, __VA_ARGS__)
#define GRU_FP32_BWD(...) GRU_CLUSTER_BWD(ieee, __VA_ARGS__)
GRU_CLUSTER_FWD_16BIT(GRU_BFLOAT16_FWD)
GRU_CLUSTER_FWD_TF32(GRU_FLOAT_FWD)
GRU_CLUSTER_FWD_IEEE(GRU_FP32_FWD)
GRU_CLUSTER_BWD_16BIT(GRU_BFLOAT16_BWD)
GRU_CLUSTER_BWD_TF32(GRU_FLOAT_BWD)
GRU_CLUSTER_BWD_IEEE(GRU_FP32_BWD)
// Small clusters, for tests of many schedules.
GRU_CLUSTER_FWD(bfloat16, 64, 2, 8, 4, 2)
GRU_CLUSTER_FWD(float16, 64, 1, 8, 4, 4)
GRU_CLUSTER_FWD(float16, 64, 4, 16, 2, 2)
GRU_CLUSTER_FWD(float, 64, 4, 16, 2, 4)
GRU_CLUSTER_FWD(ieee, 64, 4, 16, 2, 4)
GRU_CLUSTER_BWD(bfloat16, 64, 2, 8, 4, 4)
GRU_CLUSTER_BWD(float16, 64, 1, 8, 4, 12)
GRU_CLUSTER_BWD(float16, 64, 4, 16, 2, 3)
GRU_CLUSTER_BWD(float, 64, 4, 16, 2, 6)
GRU_CLUSTER_BWD(ieee, 64, 4, 16, 2, 6)
#else
GRU_CLUSTER_FWD(bfloat16, 64, 1, 8, 8, 2)
GRU_CLUSTER_BWD(bfloat16, 64, 1, 8, 8, 6)
#endif
GRU_CLUSTER_FWD(bfloat16, 64, 4, 16, 2, 2)
GRU_CLUSTER_BWD(bfloat16, 64, 4, 16, 2, 3)

}  // namespace
}  // namespace gru_ext::emulator
