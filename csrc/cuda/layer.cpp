#include "layer.h"

#include <ATen/ATen.h>

#include "device_types.h"
#include "gru_cluster.h"
#include "gru_step.h"
#include "gru_windows.h"

namespace gru_ext {
namespace {

using at::Tensor;
using at::TensorList;

StepDirection direction_of(const Sequence& s, const Layer& layer, int64_t d) {
  const Tensor* first = &layer.weights[d * s.weights_per_direction()];
  const Variant& v = layer.variant;
  const auto part = [&](const std::optional<Tensor>& mask) {
    return mask ? mask->select(0, d).contiguous() : Tensor();
  };
  StepDirection direction{d == 1,
                          v.reset_after,
                          first[0],
                          first[1],
                          {},
                          {},
                          part(v.zoneout_mask),
                          part(v.candidate_mask),
                          part(v.recurrent_mask),
                          v.zoneout,
                          v.candidate_dropout,
                          v.recurrent_dropout,
                          static_cast<int>(v.layer_norm),
                          {},
                          {}};
  if (s.has_bias) {
    direction.bias_ih = first[2].contiguous();
    direction.bias_hh = first[3].contiguous();
  }
  if (s.has_gains) {
    direction.gain_ih = first[s.weights_per_direction() - 2].contiguous();
    direction.gain_hh = first[s.weights_per_direction() - 1].contiguous();
  }
  return direction;
}

// Their tensors are those of `directions`.
LayerMasks masks_of_layer(const Layer& layer, const std::vector<StepDirection>& directions) {
  LayerMasks masks;
  for (size_t d = 0; d < directions.size() && layer.variant.has_masks(); ++d) {
    masks.of[d] = masks_of<float>(directions[d]);
  }
  return masks;
}

std::vector<StepDirection> directions_of(const Sequence& s, const Layer& layer) {
  std::vector<StepDirection> directions;
  for (int64_t d = 0; d < s.D; ++d) directions.push_back(direction_of(s, layer, d));
  return directions;
}

// The state, or its gradient, to be overwritten: (D, B, H) in the dtype of the sums, zero where there is none.
Tensor new_state(const Sequence& s, const std::optional<Tensor>& given, const at::TensorOptions& options) {
  return given.has_value() ? given->to(options, /*non_blocking=*/false, /*copy=*/true, at::MemoryFormat::Contiguous)
                           : at::zeros({s.D, s.B, s.H}, options);
}

Tensor contiguous_or_undefined(const std::optional<Tensor>& given) {
  return given.has_value() ? given->contiguous() : Tensor();
}

}  // namespace

std::optional<FwdResult> layer_fwd(const ClusterKernel* kernel, const Sequence& s, const Layer& layer, bool save_gates,
                                   bool save_y, Stream stream, const char*& error) {
  const Tensor& x = layer.x;
  const auto options = x.options();
  const auto none = [&] { return at::empty({0}, options); };
  const bool writes_y = save_y || kernel != nullptr;  // the cluster kernels write it in any case
  const Tensor y = !writes_y      ? none()
                   : x.dim() == 2 ? at::empty({s.N, s.D * s.H}, options)
                                  : at::empty({s.T, s.B, s.D * s.H}, options);
  const Tensor gates = save_gates ? at::empty(layer.variant.gates_shape(s.D, s.N, s.H), options) : none();
  if (save_gates && s.has_gains) gates.narrow(-1, 9 * s.H, 16).zero_();
  if (kernel != nullptr) {
    const Tensor h_n = at::empty({s.D, s.B, s.H}, options);
    const Tensor h0 = contiguous_or_undefined(layer.hx);
    const auto directions = layer.variant.has_masks() ? directions_of(s, layer) : std::vector<StepDirection>();
    const LayerMasks masks = masks_of_layer(layer, directions);
    error = save_gates ? gru_cluster_fwd(*kernel, s, x, h0, layer.weights, masks, y, h_n, gates, stream)
                       : gru_windows_fwd(*kernel, s, x, h0, layer.weights, masks, y, h_n, stream);
    if (error != nullptr) return std::nullopt;
    return FwdResult{save_y ? y : none(), h_n, gates};
  }
  const Tensor h = new_state(s, layer.hx, options.dtype(acc_dtype_of(x.scalar_type())));
  for (int64_t d = 0; d < s.D && s.N > 0; ++d) {
    gru_step_fwd(s, x, direction_of(s, layer, d), save_y ? y.narrow(-1, d * s.H, s.H) : Tensor(),
                 save_gates ? gates.select(0, d) : Tensor(), h.select(0, d), stream);
  }
  return FwdResult{y, h.to(x.scalar_type()), gates};
}

std::optional<BwdResult> layer_bwd(const ClusterKernel* kernel, const Sequence& s, const std::optional<Tensor>& dy,
                                   const std::optional<Tensor>& dh_n, const Layer& layer, const Tensor& y,
                                   const Tensor& gates, Need need, Stream stream, const char*& error) {
  const Tensor& x = layer.x;
  const auto dtype = x.scalar_type();
  const auto acc_options = x.options().dtype(acc_dtype_of(dtype));
  const bool saved = were_saved(gates), in_windows = kernel != nullptr && !saved;
  const Tensor dx = need.dx ? at::empty({s.N, s.I}, in_windows ? x.options() : acc_options) : Tensor();
  const Tensor h0 = contiguous_or_undefined(layer.hx);
  const Tensor unit_stride_dy = !dy.has_value() ? Tensor() : dy->stride(-1) == 1 ? *dy : dy->contiguous();
  std::vector<DirectionGrads> grads(s.D);
  for (DirectionGrads& grad : grads) {
    if (!need.dweights) break;
    const auto new_grad = [&](at::IntArrayRef shape) {
      return s.N > 0 ? at::empty(shape, acc_options) : at::zeros(shape, acc_options);
    };
    grad = {new_grad({3 * s.H, s.I}), new_grad({3 * s.H, s.H}), s.has_gains ? new_grad({6 * s.H}) : Tensor(),
            new_grad({layer.variant.saved_gates() * s.H})};
  }

  Tensor dh;
  if (kernel != nullptr) {
    dh = at::empty({s.D, s.B, s.H}, x.options());
    const Tensor last = contiguous_or_undefined(dh_n);
    const bool has_masks = layer.variant.has_masks();
    const auto directions = in_windows || has_masks ? directions_of(s, layer) : std::vector<StepDirection>();
    const LayerMasks masks = masks_of_layer(layer, directions);
    if (in_windows) {
      error = gru_windows_bwd(*kernel, s, x, h0, layer.weights, masks, directions, unit_stride_dy, last, y, dh, grads,
                              dx, stream);
    } else {
      error = gru_cluster_bwd(*kernel, s, x, h0, layer.weights, masks, unit_stride_dy, last, y, gates, dh, grads, dx,
                              stream);
    }
    if (error != nullptr) return std::nullopt;
  } else {
    dh = new_state(s, dh_n, acc_options);
    for (int64_t d = 0; d < s.D && s.N > 0; ++d) {
      const auto columns = [&](const Tensor& tensor) { return tensor.narrow(-1, d * s.H, s.H); };
      gru_step_bwd(s, x, direction_of(s, layer, d), unit_stride_dy.defined() ? columns(unit_stride_dy) : Tensor(),
                   columns(y), saved ? gates.select(0, d) : Tensor(), h0.defined() ? h0.select(0, d) : Tensor(),
                   dh.select(0, d), need.dhx,
                   /*first=*/d == 0, grads[d], dx, stream);
    }
  }

  const auto none = [&] { return at::empty({0}, x.options()); };
  std::vector<Tensor> dweights;
  for (const DirectionGrads& grad : grads) {
    if (!need.dweights) break;
    dweights.push_back(grad.weight_ih.to(dtype));
    dweights.push_back(grad.weight_hh.to(dtype));
    if (s.has_bias) {
      const Tensor of_r_and_z = grad.bias.narrow(0, s.H, 2 * s.H);
      const Tensor of_n = grad.bias.narrow(0, 0, s.H);
      const Tensor of_q = layer.variant.reset_after ? grad.bias.narrow(0, 3 * s.H, s.H) : of_n;
      dweights.push_back(at::cat({of_r_and_z, of_n}).to(dtype));
      dweights.push_back(at::cat({of_r_and_z, of_q}).to(dtype));
    }
    if (!s.has_gains) continue;
    dweights.push_back(grad.gains.narrow(0, 0, 3 * s.H).to(dtype));
    dweights.push_back(grad.gains.narrow(0, 3 * s.H, 3 * s.H).to(dtype));
  }
  return BwdResult{need.dx ? dx.to(dtype).view(x.sizes()) : none(), need.dhx ? dh.to(dtype) : none(), dweights};
}

}  // namespace gru_ext
