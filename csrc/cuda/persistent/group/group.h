// The group-persistent family: as the cluster-persistent one, for groups of any blocks of the grid, which exchange by
// packets in global memory.
#pragma once

#include "cuda/choice/family.h"

namespace gru_ext {

const Family& group_family();

}  // namespace gru_ext
