// The cluster-persistent family: R in the registers and shared memory of a cluster of blocks, which exchange the state
// by asynchronous stores to each other's shared memory.
#pragma once

#include "cuda/choice/family.h"

namespace gru_ext {

const Family& cluster_family();

}  // namespace gru_ext
