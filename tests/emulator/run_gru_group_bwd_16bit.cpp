#include "run_gru_cluster.h"

#include "cuda/persistent/group/configs.h"

namespace gru_ext {
namespace emulator {

namespace {

using device::bfloat16;
using device::float16;

#if !defined(GRU_EMULATOR_SMALL)
#define GRU_GROUP_BWD_BFLOAT16(...) GRU_GROUP_BWD(bfloat16, __VA_ARGS__)
GRU_GROUP_BWD_16BIT(GRU_GROUP_BWD_BFLOAT16)
#endif
// Small groups, for tests of many schedules.
GRU_GROUP_BWD(bfloat16, 64, 2, 8, 4, 2)
GRU_GROUP_BWD(bfloat16, 64, 4, 16, 2, 2)
GRU_GROUP_BWD(float16, 64, 4, 16, 2, 2)

}  // namespace

}  // namespace emulator
}  // namespace gru_ext
