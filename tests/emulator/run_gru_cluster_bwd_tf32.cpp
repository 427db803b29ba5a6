#include "run_gru_cluster.h"

#include "gru_cluster_configs.h"

namespace gru_ext {
namespace emulator {

namespace {

#define GRU_BWD_FLOAT(...) GRU_BWD(float, __VA_ARGS__)
GRU_CLUSTER_BWD_TF32(GRU_BWD_FLOAT)
// Small clusters, for tests of many schedules.
GRU_BWD(float, 64, 4, 16, 2, 6)

}  // namespace

}  // namespace emulator
}  // namespace gru_ext
