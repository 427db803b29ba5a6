// The one-step family: a plain layer of one time step, all directions in one launch, on the current device and without
// waiting for it.
#pragma once

#include "cuda/choice/family.h"

namespace gru_ext {

const Family& one_step_family();

}  // namespace gru_ext
