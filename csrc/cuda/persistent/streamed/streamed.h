// The streamed family: persistent kernels whose weights need not fit on the multiprocessors; those that do not are read
// again every step.
#pragma once

#include "cuda/choice/family.h"

namespace gru_ext {

const Family& streamed_family();

}  // namespace gru_ext
