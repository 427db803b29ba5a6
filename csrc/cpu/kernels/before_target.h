// Every header that kernels need of others, and ours that any instruction set may have. The file of an instruction set
// includes this before its target pragma, so that no inline function of theirs is compiled for that.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>

#include "cpu/int8/int8_kernels.h"
#include "cpu/kernels/kernels.h"
#include "cpu/step_barrier.h"
