#include "run_gru_cluster.h"

#include "cuda/persistent/cluster/configs.h"

namespace gru_ext {
namespace emulator {

namespace {

using device::bfloat16;
using device::float16;

#if !defined(GRU_EMULATOR_SMALL)
#define GRU_FWD_BFLOAT16(...) GRU_FWD(bfloat16, __VA_ARGS__)
GRU_CLUSTER_FWD_16BIT(GRU_FWD_BFLOAT16)
#else
GRU_FWD(bfloat16, 64, 1, 8, 4, 4)
#endif
// Small clusters, for tests of many schedules.
GRU_FWD(bfloat16, 64, 2, 8, 4, 2)
GRU_FWD(bfloat16, 64, 4, 16, 2, 2)
GRU_FWD(float16, 64, 1, 8, 4, 4)
GRU_FWD(float16, 64, 4, 16, 2, 2)

}  // namespace

}  // namespace emulator
}  // namespace gru_ext
