// What a block works on, and where its steps are in tensors whose sequences may be packed.
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

// What a block works on: the rows from row0 on, the units from unit0 on.
struct BlockWork {
  int direction, row0, unit0;
};

// A step, and its first row in a tensor of N rows.
struct Step {
  int t;
  int64_t row;
};

// The first row of step t. In a packed batch it is loaded: kernels ask for it long before they use it, so that no
// load of their loop waits for another.
template <typename Params>
GRU_DEVICE int64_t first_row(const Params& p, int t) {
  return p.offsets ? load_global(p.offsets + t) : static_cast<int64_t>(t) * p.B;
}

// The first element of a step of a tensor with a row for every step of every sequence.
template <typename scalar_t>
GRU_DEVICE scalar_t* rows_of_step(const StepRows<scalar_t>& tensor, bool packed, const Step& step) {
  return tensor.data + (packed ? step.row * tensor.row_stride : step.t * tensor.step_stride);
}

GRU_DEVICE int clamp(int x, int low, int high) { return x < low ? low : x > high ? high : x; }

}  // namespace device
}  // namespace gru_ext
