// Where a thread is, what its block works on, and where the steps of that are in tensors whose sequences may be packed.
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

// A thread of a block, and its place in a tile: see primitives.cuh, tensor cores.
struct ThreadPlace {
  int thread, lane, g, c;

  GRU_DEVICE explicit ThreadPlace(int index = thread_index())
      : thread(index), lane(thread % kWarpSize), g(lane / 4), c(lane % 4) {}
};

// What a block works on: the rows from row0 on, the units from unit0 on, of a direction of a member.
struct BlockWork {
  int member, direction, row0, unit0;

  // Of all directions of all members, as the tensors of states and gates have them.
  template <typename Params>
  GRU_DEVICE int64_t layer(const Params& p) const {
    return anew(member) * p.D + direction;  // or it would be kept in a register
  }
};

// That of a cluster or group, of which the call has one for each tile of so many rows.
template <typename Params>
GRU_DEVICE BlockWork work_of(const Params& p, int cluster, int rows, int unit0) {
  const int tiles = (p.B + rows - 1) / rows, layer = cluster / tiles;
  return {layer / p.D, layer % p.D, cluster % tiles * rows, unit0};
}

// The block's recurrent weights (3H, H).
template <typename Params>
GRU_DEVICE auto* weights_of(const Params& p, const BlockWork& work) {
  return p.weight_hh[work.direction] + work.member * p.weight_stride[work.direction];
}

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

// The first element of a step of the block's member, of a tensor with a row for every step of every sequence.
template <typename Params, typename scalar_t>
GRU_DEVICE scalar_t* rows_of_step(const Params& p, const StepRows<scalar_t>& tensor, const BlockWork& work,
                                  const Step& step) {
  const int first = work.member * tensor.member_steps;
  return tensor.data + (p.offsets ? (first + step.row) * tensor.row_stride : (first + step.t) * tensor.step_stride);
}

// Of a packed batch, the first rows of three steps, one after the other here.
struct PackedRows {
  int64_t before = any_value(), here = any_value(), next = any_value();
};

GRU_DEVICE int clamp(int x, int low, int high) { return x < low ? low : x > high ? high : x; }

}  // namespace device
}  // namespace gru_ext
