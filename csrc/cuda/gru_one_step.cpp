#include "gru_one_step.h"

#include <ATen/ATen.h>

#include "../dispatch.h"
#include "arguments.h"

namespace gru_ext {
namespace {

using at::Tensor;

// The product of weights (3H, F), one for each direction, and rows of F values.
template <typename at_t>
auto product_of(const Tensor (&weights)[2], const Tensor& operand, int64_t direction_stride) {
  GruOneStepProduct<typename Device<at_t>::scalar_t> product{};
  product.length = operand.size(-1);
  product.operand = readable<at_t>(operand);
  product.direction_stride = direction_stride;
  product.row_stride = operand.stride(-2);
  product.value_stride = operand.stride(-1);
  product.aligned = product.value_stride == 1 && rows_are_aligned(operand, 16);
  for (size_t d = 0; d < 2 && weights[d].defined(); ++d) {
    product.weight[d] = readable<at_t>(weights[d]);
    product.aligned = product.aligned && rows_are_aligned(weights[d], 16);
  }
  return product;
}

template <typename at_t>
void one_step(const Sequence& s, const Layer& layer, const Tensor& y, const Tensor& h_n, const Tensor& gates,
              Stream stream) {
  GruOneStepFwdParams<typename Device<at_t>::scalar_t> p{};
  p.B = s.B;
  p.H = s.H;
  p.D = s.D;
  Tensor weight_ih[2], weight_hh[2], bias_ih[2], bias_hh[2];
  for (int64_t d = 0; d < s.D; ++d) {
    const Tensor* const of_direction = &layer.weights[d * s.weights_per_direction()];
    weight_ih[d] = of_direction[0].contiguous();
    weight_hh[d] = of_direction[1].contiguous();
    if (!s.has_bias) continue;
    bias_ih[d] = of_direction[2].contiguous();
    bias_hh[d] = of_direction[3].contiguous();
    p.bias_ih[d] = readable<at_t>(bias_ih[d]);
    p.bias_hh[d] = readable<at_t>(bias_hh[d]);
  }
  p.of_x = product_of<at_t>(weight_ih, layer.x, /*direction_stride=*/0);
  if (layer.hx.has_value()) p.of_h = product_of<at_t>(weight_hh, *layer.hx, layer.hx->stride(0));
  p.y = writable<at_t>(y);
  p.h_n = writable<at_t>(h_n);
  p.gates = writable<at_t>(gates);
  check_launch(launch_gru_one_step_fwd(p, stream));
}

}  // namespace

FwdResult gru_one_step_fwd(const Sequence& s, const Layer& layer, bool save_gates, bool save_y, Stream stream) {
  const auto options = layer.x.options();
  const Tensor y = !save_y              ? Tensor()
                   : layer.x.dim() == 2 ? at::empty({s.N, s.D * s.H}, options)
                                        : at::empty({s.T, s.B, s.D * s.H}, options);
  const Tensor h_n = at::empty({s.D, s.B, s.H}, options);
  const Tensor gates = save_gates ? at::empty(layer.variant.gates_shape(s.D, s.N, s.H), options) : Tensor();
  with_scalar_type(layer.x.scalar_type(),
                   [&](auto zero) { one_step<decltype(zero)>(s, layer, y, h_n, gates, stream); });
  const auto none = [&] { return at::empty({0}, options); };
  return {save_y ? y : none(), h_n, save_gates ? gates : none()};
}

}  // namespace gru_ext
