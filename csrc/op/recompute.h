// For a backward whose forward has kept no gates: the gates of a chunk of time steps, computed again.
//
// The state before every step is in y, or is the initial one. So the gates of a chunk need no recurrence: they are
// those of one step whose batch are all rows of the chunk, and its products are large. Each backend has its own forward
// do that step; here is what it takes. For one direction.
#pragma once

#include <ATen/core/Tensor.h>

#include "op/check.h"
#include "op/chunks.h"

namespace gru_ext {

// The sizes of that step.
inline Sequence as_one_step(const Sequence& s, const Chunk& chunk) {
  Sequence step = s;
  step.T = step.D = 1;
  step.B = step.N = chunk.rows;
  step.all_H = s.H;
  step.packed_sizes.clear();
  step.packed_offsets.clear();
  return step;
}

// Its input (1, rows, I), a view where x allows it.
at::Tensor input_of(const Sequence& s, const at::Tensor& x, const Chunk& chunk);

// Copies its state into `states` (rows, H): that before each step of the chunk. `y`: the direction's H columns; `h0`
// (B, H), undefined for zero.
void copy_states_before(const Sequence& s, const Chunk& chunk, bool reverse, const at::Tensor& y, const at::Tensor& h0,
                        const at::Tensor& states);

// (rows, H) of a mask (B, H) that all steps of a sequence share.
at::Tensor mask_of_rows(const Sequence& s, const Chunk& chunk, const at::Tensor& mask);

// Of a layer's variant, what the gates of the step depend on.
Variant variant_of_gates(const Sequence& s, const Chunk& chunk, int64_t direction, const Variant& variant);

}  // namespace gru_ext
