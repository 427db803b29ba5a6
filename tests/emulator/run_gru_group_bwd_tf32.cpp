#include "run_gru_cluster.h"

#include "cuda/persistent/group/configs.h"

namespace gru_ext {
namespace emulator {

namespace {

#if !defined(GRU_EMULATOR_SMALL)
#define GRU_GROUP_BWD_FLOAT(...) GRU_GROUP_BWD(float, __VA_ARGS__)
GRU_GROUP_BWD_TF32(GRU_GROUP_BWD_FLOAT)
#endif
// Small groups, for tests of many schedules.
GRU_GROUP_BWD(float, 64, 4, 16, 2, 4)

}  // namespace

}  // namespace emulator
}  // namespace gru_ext
