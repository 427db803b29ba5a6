#include "run_gru_cluster.h"

#include "cuda/persistent/cluster/configs.h"

namespace gru_ext {
namespace emulator {

namespace {

#if !defined(GRU_EMULATOR_SMALL)
#define GRU_FWD_FLOAT(...) GRU_FWD(float, __VA_ARGS__)
GRU_CLUSTER_FWD_TF32(GRU_FWD_FLOAT)
#endif
// Small clusters, for tests of many schedules.
GRU_FWD(float, 64, 4, 16, 2, 4)

}  // namespace

}  // namespace emulator
}  // namespace gru_ext
