#include "run_gru_cluster.h"

#include "cuda/persistent/cluster/configs.h"

namespace gru_ext {
namespace emulator {

namespace {

using device::bfloat16;
using device::float16;

#if !defined(GRU_EMULATOR_SMALL)
#define GRU_BWD_BFLOAT16(...) GRU_BWD(bfloat16, __VA_ARGS__)
GRU_CLUSTER_BWD_16BIT(GRU_BWD_BFLOAT16)
#else
GRU_BWD(bfloat16, 64, 1, 8, 4, 12)
#endif
// Small clusters, for tests of many schedules.
GRU_BWD(bfloat16, 64, 2, 8, 4, 4)
GRU_BWD(bfloat16, 64, 4, 16, 2, 3)
GRU_BWD(float16, 64, 1, 8, 4, 12)
GRU_BWD(float16, 64, 4, 16, 2, 3)

}  // namespace

}  // namespace emulator
}  // namespace gru_ext
