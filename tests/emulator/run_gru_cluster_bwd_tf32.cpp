#include "run_gru_cluster.h"

#include "cuda/persistent/cluster/configs.h"

namespace gru_ext {
namespace emulator {

namespace {

#if !defined(GRU_EMULATOR_SMALL)
#define GRU_BWD_FLOAT(...) GRU_BWD(float, __VA_ARGS__)
GRU_CLUSTER_BWD_TF32(GRU_BWD_FLOAT)
#endif
// Small clusters, for tests of many schedules.
GRU_BWD(float, 64, 4, 16, 2, 6)

}  // namespace

}  // namespace emulator
}  // namespace gru_ext
