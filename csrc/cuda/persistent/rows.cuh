// Where the rows of a step are in tensors whose sequences may be packed.
#pragma once

#include "cuda/params.h"
#include "cuda/primitives.cuh"

namespace gru_ext {
namespace device {

// tensor + offset, where the tensor may be null, to which no offset may be added: a sum of integers. Nothing is loaded
// from there then.
template <typename T>
GRU_DEVICE T* at_offset(T* tensor, int64_t offset) {
  return reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(tensor) + offset * sizeof(T));
}

// The first element of step t of a tensor with a row for every step of every sequence.
template <typename scalar_t>
GRU_DEVICE scalar_t* rows_of_step(const StepRows<scalar_t>& tensor, const int64_t* offsets, int t) {
  return tensor.data + (offsets ? load_global(offsets + t) * tensor.row_stride : t * tensor.step_stride);
}

// The first row of step t in a tensor of N rows.
GRU_DEVICE int64_t row_of_step(const int64_t* offsets, int B, int t) {
  return offsets ? load_global(offsets + t) : static_cast<int64_t>(t) * B;
}

GRU_DEVICE int clamp(int x, int low, int high) { return x < low ? low : x > high ? high : x; }

}  // namespace device
}  // namespace gru_ext
