#include "run_gru_cluster.h"

#include "cuda/persistent/cluster/configs.h"
#include "cuda/persistent/group/configs.h"

namespace gru_ext {
namespace emulator {

namespace {

using device::ieee;

#if !defined(GRU_EMULATOR_SMALL)
#define GRU_FWD_FP32(...) GRU_FWD(ieee, __VA_ARGS__)
#define GRU_GROUP_FWD_FP32(...) GRU_GROUP_FWD(ieee, __VA_ARGS__)
#define GRU_BWD_FP32(...) GRU_BWD(ieee, __VA_ARGS__)
#define GRU_GROUP_BWD_FP32(...) GRU_GROUP_BWD(ieee, __VA_ARGS__)
GRU_CLUSTER_FWD_IEEE(GRU_FWD_FP32)
GRU_GROUP_FWD_IEEE(GRU_GROUP_FWD_FP32)
GRU_CLUSTER_BWD_IEEE(GRU_BWD_FP32)
GRU_GROUP_BWD_IEEE(GRU_GROUP_BWD_FP32)
#else
GRU_FWD(ieee, 64, 1, 8, 4, 8)
GRU_BWD(ieee, 64, 1, 8, 4, 24)
#endif
// Small ones, for tests of many schedules.
GRU_FWD(ieee, 64, 4, 16, 2, 4)
GRU_GROUP_FWD(ieee, 64, 4, 16, 2, 4)
GRU_BWD(ieee, 64, 4, 16, 2, 6)
GRU_GROUP_BWD(ieee, 64, 4, 16, 2, 4)

}  // namespace

}  // namespace emulator
}  // namespace gru_ext
