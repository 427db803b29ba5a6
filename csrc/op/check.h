// Validation of the operators' inputs, and the wording of their errors. Every backend calls these before it touches
// any memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "op/layer.h"

namespace gru_ext {

// Sizes of a checked call, and the rows of each step.
struct Sequence {
  int64_t T, B, I, H, D, N;
  int64_t all_H;  // hidden units of all blocks, of which H are one's; H where there are no blocks
  bool has_bias, has_gains;
  std::vector<int64_t> packed_sizes;    // (T) rows of each step; empty where every step has B rows
  std::vector<int64_t> packed_offsets;  // (T) first row of each step; likewise

  int64_t members = 0;  // of a call of op/members.h, the first dimension of its tensors; 0 where they have none

  int64_t layers() const { return std::max<int64_t>(members, 1) * D; }  // directions of all members
  // Of a tensor of the call, given that of a layer's.
  std::vector<int64_t> shape(std::vector<int64_t> of_layer) const {
    if (members > 0) of_layer.insert(of_layer.begin(), members);
    return of_layer;
  }
  bool is_packed() const { return !packed_sizes.empty(); }
  int64_t rows(int64_t t) const { return packed_sizes.empty() ? B : packed_sizes[t]; }
  int64_t offset(int64_t t) const { return packed_offsets.empty() ? t * B : packed_offsets[t]; }
  int64_t weights_per_direction() const { return 2 + (has_bias ? 2 : 0) + (has_gains ? 2 : 0); }
};

// Checks ranks, shapes, dtypes and devices. Throws ValueError on a wrong rank or dtype and RuntimeError on the rest.
// `blocks`: of blocks.h.
Sequence check_fwd(const Layer& layer, int64_t blocks = 1);

// As check_fwd, for the weights of int8.h.
Sequence check_int8(const at::Tensor& x, const std::optional<at::Tensor>& hx, at::TensorList weights,
                    const std::optional<at::Tensor>& batch_sizes, bool bidirectional, int64_t blocks);

// As check_fwd, and what the backward has besides.
Sequence check_bwd(const Backward& call, int64_t blocks = 1);

}  // namespace gru_ext
