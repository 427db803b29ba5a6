// Number formats (declared in emulator.h), and what the tensor core computes with them.
#pragma once

#include "cuda/primitives.cuh"

namespace gru_ext::emulator {

// mma: D += A B over the registers of the 32 threads of a warp, in the layout that primitives.cuh states.
void multiply_tiles(Operand type, float* const (&d)[32], const uint32_t* const (&a)[32],
                    const uint32_t* const (&b)[32]);

}  // namespace gru_ext::emulator
