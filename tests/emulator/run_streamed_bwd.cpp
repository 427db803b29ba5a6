#include "run_streamed.h"

namespace gru_ext::emulator {
namespace {

#if !defined(GRU_EMULATOR_SMALL)
#define GRU_BFLOAT16(...) GRU_STREAMED_BWD(bfloat16, __VA_ARGS__)
#define GRU_FLOAT(...) GRU_STREAMED_BWD(float, __VA_ARGS__)
GRU_STREAMED_BWD_16BIT(GRU_BFLOAT16)
GRU_STREAMED_BWD_TF32(GRU_FLOAT)
#endif
// Few warps, for tests of many schedules.
GRU_STREAMED_BWD(bfloat16, 16, 8, 2, 1, 1, 2, 2)
GRU_STREAMED_BWD(bfloat16, 48, 16, 2, 3, 1, 3, 3)
GRU_STREAMED_BWD(float16, 32, 16, 2, 2, 1, 3, 3)
GRU_STREAMED_BWD(float, 48, 8, 2, 3, 1, 3, 2)

}  // namespace
}  // namespace gru_ext::emulator
