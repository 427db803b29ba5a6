// How a persistent kernel's blocks exchange, and the types that it is named by.
#pragma once

#include "cell/cell.h"
#include "cuda/primitives.cuh"

namespace gru_ext {
namespace device {

// How the blocks that share out R tell each other of the state.
enum class Exchange {
  none,     // there is one block
  cluster,  // a cluster, by asynchronous stores to shared memory
  packets   // a group of any blocks of the grid, all of which run at the same time, by packets in global memory
};

// Float32 values that are multiplied on the FMA units, without rounding them before.
struct ieee {
  float value;
};

// By what a kernel is named: bfloat16, float16, float, whose operands on the tensor core are TF32, or ieee, for float.
template <typename Name>
struct TypesOf {
  using Tensor = Name;
  using Operand = Name;
  using Math = FastMath;  // of the gates
};
template <>
struct TypesOf<float> {
  using Tensor = float;
  using Operand = tf32;
  using Math = FastMath;
};
template <>
struct TypesOf<ieee> {
  using Tensor = float;
  using Operand = ieee;
  using Math = AccurateMath<float>;
};
template <typename Operand>
constexpr bool kOnFmaUnits = false;
template <>
constexpr bool kOnFmaUnits<ieee> = true;

// How many values a 32-bit word holds, of tensors or of operands.
template <typename T>
constexpr int kValuesPerWord = 4 / static_cast<int>(sizeof(T));

}  // namespace device
}  // namespace gru_ext
