#include "run_gru_streamed.h"

#include "cuda/persistent/streamed/configs.h"

namespace gru_ext {
namespace emulator {

namespace {

using device::bfloat16;
using device::float16;

#if !defined(GRU_EMULATOR_SMALL)
#define GRU_STREAMED_FWD_BFLOAT16(...) GRU_STREAMED_FWD(bfloat16, __VA_ARGS__)
#define GRU_STREAMED_FWD_FLOAT(...) GRU_STREAMED_FWD(float, __VA_ARGS__)
GRU_STREAMED_FWD_16BIT(GRU_STREAMED_FWD_BFLOAT16)
GRU_STREAMED_FWD_TF32(GRU_STREAMED_FWD_FLOAT)
#endif
// Few warps, for tests of many schedules.
GRU_STREAMED_FWD(bfloat16, 16, 8, 2, 1, 1, 2, 2)
GRU_STREAMED_FWD(bfloat16, 48, 16, 2, 3, 1, 3, 3)
GRU_STREAMED_FWD(float16, 32, 16, 2, 2, 1, 3, 3)
GRU_STREAMED_FWD(float, 48, 8, 2, 3, 1, 3, 2)

}  // namespace

}  // namespace emulator
}  // namespace gru_ext
