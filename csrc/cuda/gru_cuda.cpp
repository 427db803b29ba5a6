// The CUDA backend: checks, allocation, and the kernels of one layer, forward and backward.
#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <vector>

#include "../check.h"
#include "../dispatch.h"
#include "../gru.h"
#include "gru_step.h"
#include "products.h"

namespace gru_ext {
namespace {

using at::Tensor;
using at::TensorList;

at::ScalarType acc_dtype_of(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }

StepDirection direction_of(const Sequence& s, const Layer& layer, int64_t d) {
  const Tensor* first = &layer.weights[d * s.weights_per_direction()];
  StepDirection direction{d == 1, layer.variant.reset_after, first[0], first[1], {}, {}};
  if (s.has_bias) {
    direction.bias_ih = first[2].contiguous();
    direction.bias_hh = first[3].contiguous();
  }
  return direction;
}

// The state, or its gradient, to be overwritten: (D, B, H) in the dtype of the sums, zero where there is none.
Tensor new_state(const Sequence& s, const std::optional<Tensor>& given, const at::TensorOptions& options) {
  return given.has_value() ? given->to(options, /*non_blocking=*/false, /*copy=*/true, at::MemoryFormat::Contiguous)
                           : at::zeros({s.D, s.B, s.H}, options);
}

}  // namespace

FwdResult gru_fwd_cuda(const Layer& layer, bool save_gates, bool save_y) {
  const BelowAutogradAndAutocast below;
  const Sequence s = check_fwd(layer);
  const Tensor& x = layer.x;
  const std::optional<Tensor>& hx = layer.hx;
  TORCH_CHECK_NOT_IMPLEMENTED(!layer.variant.has_masks(), "gru: masks and zoneout have no kernel yet");
  const c10::cuda::CUDAGuard device(x.device());
  const Stream stream = c10::cuda::getCurrentCUDAStream().stream();
  const RnnPrecisionGuard precision;
  const auto options = x.options();
  const Tensor y = !save_y        ? at::empty({0}, options)
                   : x.dim() == 2 ? at::empty({s.N, s.D * s.H}, options)
                                  : at::empty({s.T, s.B, s.D * s.H}, options);
  const Tensor gates =
      save_gates ? at::empty({s.D, s.N, layer.variant.saved_gates(), s.H}, options) : at::empty({0}, options);
  const Tensor h = new_state(s, hx, options.dtype(acc_dtype_of(x.scalar_type())));
  for (int64_t d = 0; d < s.D && s.N > 0; ++d) {
    gru_step_fwd(s, x, direction_of(s, layer, d), save_y ? y.narrow(-1, d * s.H, s.H) : Tensor(),
                 save_gates ? gates.select(0, d) : Tensor(), h.select(0, d), stream);
  }
  return {y, h.to(x.scalar_type()), gates};
}

BwdResult gru_bwd_cuda(const std::optional<Tensor>& dy, const std::optional<Tensor>& dh_n, const Layer& layer,
                       const Tensor& y, const Tensor& gates, Need need) {
  const BelowAutogradAndAutocast below;
  const Sequence s = check_bwd(dy, dh_n, layer, y, gates);
  const Tensor& x = layer.x;
  const std::optional<Tensor>& hx = layer.hx;
  TORCH_CHECK_NOT_IMPLEMENTED(!layer.variant.has_masks(), "gru: masks and zoneout have no kernel yet");
  const c10::cuda::CUDAGuard device(x.device());
  const Stream stream = c10::cuda::getCurrentCUDAStream().stream();
  const RnnPrecisionGuard precision;
  const auto dtype = x.scalar_type();
  const auto acc_options = x.options().dtype(acc_dtype_of(dtype));
  const Tensor dh = new_state(s, dh_n, acc_options);
  const Tensor dx = need.dx ? at::empty({s.N, s.I}, acc_options) : Tensor();
  const Tensor h0 = hx.has_value() ? hx->contiguous() : Tensor();
  const Tensor unit_stride_dy = !dy.has_value() ? Tensor() : dy->stride(-1) == 1 ? *dy : dy->contiguous();

  std::vector<DirectionGrads> grads(s.D);
  for (int64_t d = 0; d < s.D; ++d) {
    if (need.dweights) {
      const auto new_grad = [&](at::IntArrayRef shape) {
        return s.N > 0 ? at::empty(shape, acc_options) : at::zeros(shape, acc_options);
      };
      grads[d] = {new_grad({3 * s.H, s.I}), new_grad({3 * s.H, s.H}), new_grad({layer.variant.saved_gates() * s.H})};
    }
    if (s.N == 0) continue;
    const auto columns = [&](const Tensor& tensor) { return tensor.narrow(-1, d * s.H, s.H); };
    gru_step_bwd(s, x, direction_of(s, layer, d), unit_stride_dy.defined() ? columns(unit_stride_dy) : Tensor(),
                 columns(y), gates.select(0, d), h0.defined() ? h0.select(0, d) : Tensor(), dh.select(0, d), need.dhx,
                 /*first=*/d == 0, grads[d], dx, stream);
  }

  const auto not_needed = [&] { return at::empty({0}, x.options()); };
  std::vector<Tensor> dweights;
  if (need.dweights) {
    for (const DirectionGrads& grad : grads) {
      dweights.push_back(grad.weight_ih.to(dtype));
      dweights.push_back(grad.weight_hh.to(dtype));
      if (!s.has_bias) continue;
      const Tensor of_r_and_z = grad.bias.narrow(0, s.H, 2 * s.H);
      const Tensor of_n = grad.bias.narrow(0, 0, s.H);
      const Tensor of_q = layer.variant.reset_after ? grad.bias.narrow(0, 3 * s.H, s.H) : of_n;
      dweights.push_back(at::cat({of_r_and_z, of_n}).to(dtype));
      dweights.push_back(at::cat({of_r_and_z, of_q}).to(dtype));
    }
  }
  return {need.dx ? dx.to(dtype).view(x.sizes()) : not_needed(), need.dhx ? dh.to(dtype) : not_needed(), dweights};
}

}  // namespace gru_ext
