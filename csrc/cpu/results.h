// The CPU backend with results that the caller allocated: of one layer, or of a member of several that run together.
#pragma once

#include "cpu/arranged.h"
#include "op/check.h"
#include "op/layer.h"

namespace gru_ext {

// Floating point operations of a step of one direction that decide how many threads it is worth.
inline double fwd_flops(const Sequence& s) { return 6.0 * s.B * s.H * (s.H + s.I); }
inline double bwd_flops(const Sequence& s) { return 6.0 * s.B * s.H * s.H; }

// As gru_fwd_cpu and gru_bwd_cpu (op_cpu.h), of a checked call, into `results`: contiguous, and of shape (0) where not
// saved or not needed; gates may be undefined too, and y of the forward may have any strides between its rows.
// `arranged`: the weights of each direction, which the layer then has not.
void gru_fwd_cpu_into(const Sequence& s, const Layer& layer, const FwdResult& results,
                      const ArrangedWeights* arranged = nullptr);
void gru_bwd_cpu_into(const Sequence& s, const std::optional<at::Tensor>& dy, const std::optional<at::Tensor>& dh_n,
                      const Layer& layer, const at::Tensor& y, const at::Tensor& gates, Need need,
                      const BwdResult& results);

}  // namespace gru_ext
