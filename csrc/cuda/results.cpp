#include "cuda/results.h"

#include <ATen/ATen.h>

namespace gru_ext {

using at::Tensor;

Tensor empty_y(const Sequence& s, const Tensor& x, bool save_y) {
  const bool packed = x.dim() == (s.members > 0 ? 3 : 2);
  return at::empty(!save_y  ? std::vector<int64_t>{0}
                   : packed ? s.shape({s.N, s.D * s.H})
                            : s.shape({s.T, s.B, s.D * s.H}),
                   x.options());
}

Tensor empty_gates(const Sequence& s, const Layer& layer, bool save_gates) {
  const auto options = layer.x.options();
  return at::empty(s.shape(save_gates ? layer.variant.gates_shape(s.D, s.N, s.H) : std::vector<int64_t>{0}), options);
}

BwdResult bwd_result(const BwdCall& call, const Tensor& dx, const Tensor& dh,
                     const std::vector<DirectionGrads>& grads) {
  const Tensor& x = call.layer.x;
  const auto none = [&] { return at::empty(call.s.shape({0}), x.options()); };
  return {call.need.dx ? dx.to(x.scalar_type()).view(x.sizes()) : none(),
          call.need.dhx ? dh.to(x.scalar_type()) : none(), dweights_of(call.s, call.layer, grads, call.need.dweights)};
}

Tensor unit_stride_or_undefined(const std::optional<Tensor>& given) {
  return !given.has_value() ? Tensor() : given->stride(-1) == 1 ? *given : given->contiguous();
}

}  // namespace gru_ext
