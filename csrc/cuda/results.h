// Memory for a call's results, and the forms in which all families take its arguments.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "cuda/choice/family.h"
#include "cuda/products.h"

namespace gru_ext {

// Of shape (0) where not saved, see op/layer.h.
at::Tensor empty_y(const Sequence& s, const at::Tensor& x, bool save_y);
at::Tensor empty_gates(const Sequence& s, const Layer& layer, bool save_gates);

// dx (N, I) and dh (D, B, H) in whatever dtype they are, undefined where not needed.
BwdResult bwd_result(const BwdCall& call, const at::Tensor& dx, const at::Tensor& dh,
                     const std::vector<DirectionGrads>& grads);

// Of unit stride in its last dimension.
at::Tensor unit_stride_or_undefined(const std::optional<at::Tensor>& given);

}  // namespace gru_ext
