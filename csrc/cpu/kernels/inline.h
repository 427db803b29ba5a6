// What has to be inlined wherever it is called: parts of kernels, whose values stay in registers.
#pragma once

#define GRU_INLINE inline __attribute__((always_inline))
// Of a lambda, after its parameters.
#define GRU_INLINED __attribute__((always_inline))
