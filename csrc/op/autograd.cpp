// The derivative of `gru` for plain autograd: a C++ node, because with a Python one a tiny step takes 2.6 times as long
// (docs/performance.md). Under torch.func transforms src/gru_ext/transforms.py serves, with the same operators; where
// the forward ran before one of them began, the backward here is in plain PyTorch.
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/forward_grad.h>

#include "op/layer.h"

namespace gru_ext {
namespace {

using at::Tensor;
using at::TensorList;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

std::optional<Tensor> optional(const Tensor& t) { return t.defined() ? std::optional<Tensor>(t) : std::nullopt; }

// A variant between forward and backward: its tensors are the last of the saved ones, the rest is a list.
constexpr size_t kVariantTensors = 3;

void save_variant(const Variant& v, AutogradContext* ctx, variable_list& tensors) {
  for (const auto& mask : {v.zoneout_mask, v.recurrent_mask, v.candidate_mask}) {
    tensors.push_back(mask.value_or(Tensor()));
  }
  ctx->saved_data["rates"] = std::vector<double>{v.zoneout, v.recurrent_dropout, v.candidate_dropout};
  ctx->saved_data["reset_after"] = v.reset_after;
  ctx->saved_data["layer_norm"] = v.layer_norm;
}

Variant saved_variant(AutogradContext* ctx, const Tensor* tensors) {
  const std::vector<double> rates = ctx->saved_data["rates"].toDoubleVector();
  return {optional(tensors[0]),
          optional(tensors[1]),
          optional(tensors[2]),
          rates[0],
          rates[1],
          rates[2],
          ctx->saved_data["reset_after"].toBool(),
          ctx->saved_data["layer_norm"].toInt()};
}

// Whether a transform of torch.func is active, or one of the tensors has a tangent of forward-mode differentiation.
bool is_transformed(std::initializer_list<const variable_list*> lists) {
  if (c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode)) return true;
  if (torch::autograd::ForwardADLevel::try_get_by_idx(0) == nullptr) return false;  // of any thread
  const auto has_tangent = [](const Tensor& tensor) { return tensor.defined() && tensor._fw_grad(0).defined(); };
  return std::any_of(lists.begin(), lists.end(), [&](const variable_list* tensors) {
    return std::any_of(tensors->begin(), tensors->end(), has_tangent);
  });
}

class GruFunction : public torch::autograd::Function<GruFunction> {
 public:
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const std::optional<Tensor>& hx,
                               TensorList weights, const std::optional<Tensor>& batch_sizes, bool bidirectional,
                               bool save_gates, const Variant& variant) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    auto [y, h_n, gates] = gru_fwd({x, hx, weights, batch_sizes, bidirectional, variant}, save_gates, /*save_y=*/true);
    variable_list saved = {x, hx.value_or(Tensor()), batch_sizes.value_or(Tensor()), y, gates};
    saved.insert(saved.end(), weights.begin(), weights.end());
    if (!variant.is_plain()) save_variant(variant, ctx, saved);
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["bidirectional"] = bidirectional;
    ctx->saved_data["plain"] = variant.is_plain();
    ctx->set_materialize_grads(false);
    return {y, h_n};
  }

  // One gradient for each of x, hx, the weights, batch_sizes, bidirectional, save_gates and the variant.
  static variable_list backward(AutogradContext* ctx, const variable_list& grad_outputs) {
    const variable_list saved = ctx->get_saved_variables();
    const Tensor& x = saved[0];
    const std::optional<Tensor> hx = optional(saved[1]);
    const std::optional<Tensor> batch_sizes = optional(saved[2]);
    const bool plain = ctx->saved_data["plain"].toBool();
    const size_t end_of_weights = saved.size() - (plain ? 0 : kVariantTensors);
    const variable_list weights(saved.begin() + 5, saved.begin() + end_of_weights);
    const Variant variant = plain ? Variant() : saved_variant(ctx, &saved[end_of_weights]);
    const Layer layer{x, hx, weights, batch_sizes, ctx->saved_data["bidirectional"].toBool(), variant};

    // An edge for each tensor argument that was given.
    const size_t first_weight = hx.has_value() ? 2 : 1;
    bool need_dweights = false;
    for (size_t i = 0; i < weights.size(); ++i) need_dweights |= ctx->needs_input_grad(first_weight + i);
    const Need need{ctx->needs_input_grad(0), hx.has_value() && ctx->needs_input_grad(1), need_dweights};

    // As gru_fwd returned them, also where a hook on saved tensors gave them other strides.
    const Tensor y = saved[3].contiguous(), gates = saved[4].contiguous();
    const Backward call{optional(grad_outputs[0]), optional(grad_outputs[1]), layer, y, gates, need};
    const auto [dx, dhx, dweights] = [&] {
      if (is_transformed({&grad_outputs, &saved})) return gru_bwd_by_reference(call);
      if (at::GradMode::is_enabled()) return gru_bwd(call);  // create_graph: record the backward itself
      at::AutoDispatchBelowADInplaceOrView below_autograd;
      return gru_bwd(call);
    }();

    variable_list grads = {need.dx ? dx : Tensor(), need.dhx ? dhx : Tensor()};
    for (size_t i = 0; i < weights.size(); ++i) grads.push_back(need_dweights ? dweights[i] : Tensor());
    grads.insert(grads.end(), {Tensor(), Tensor(), Tensor(), Tensor()});
    return grads;
  }
};

bool any_requires_grad(const Layer& l) {
  if (l.x.requires_grad() || (l.hx.has_value() && l.hx->requires_grad())) return true;
  return std::any_of(l.weights.begin(), l.weights.end(), [](const Tensor& w) { return w.requires_grad(); });
}

}  // namespace

std::tuple<Tensor, Tensor> gru(const Layer& l, bool save_y, bool save_gates) {
  if (at::GradMode::is_enabled() && any_requires_grad(l)) {
    const variable_list outputs =
        GruFunction::apply(l.x, l.hx, l.weights, l.batch_sizes, l.bidirectional, save_gates, l.variant);
    return {outputs[0], outputs[1]};
  }
  auto [y, h_n, gates] = gru_fwd(l, /*save_gates=*/false, save_y);
  return {y, h_n};
}

}  // namespace gru_ext
