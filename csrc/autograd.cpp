// The derivative of `gru` for plain autograd: a C++ node, because with a Python one a tiny step takes 2.6 times as long
// (docs/performance.md). Under torch.func transforms gru_ext/autograd.py serves, with the same operators.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>

#include "gru.h"

namespace gru_ext {
namespace {

using at::Tensor;
using at::TensorList;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class GruFunction : public torch::autograd::Function<GruFunction> {
 public:
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const std::optional<Tensor>& hx,
                               TensorList weights, const std::optional<Tensor>& batch_sizes, bool bidirectional) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    auto [y, h_n, gates] = gru_fwd(x, hx, weights, batch_sizes, bidirectional, /*save_gates=*/true);
    variable_list saved = {x, hx.value_or(Tensor()), batch_sizes.value_or(Tensor()), y, gates};
    saved.insert(saved.end(), weights.begin(), weights.end());
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["bidirectional"] = bidirectional;
    ctx->set_materialize_grads(false);
    return {y, h_n};
  }

  // One gradient for each of x, hx, the weights, batch_sizes and bidirectional.
  static variable_list backward(AutogradContext* ctx, const variable_list& grad_outputs) {
    const variable_list saved = ctx->get_saved_variables();
    const auto optional = [](const Tensor& t) { return t.defined() ? std::optional<Tensor>(t) : std::nullopt; };
    const Tensor& x = saved[0];
    const std::optional<Tensor> hx = optional(saved[1]);
    const std::optional<Tensor> batch_sizes = optional(saved[2]);
    const variable_list weights(saved.begin() + 5, saved.end());

    // An edge for each tensor argument that was given.
    const size_t first_weight = hx.has_value() ? 2 : 1;
    bool need_dweights = false;
    for (size_t i = 0; i < weights.size(); ++i) need_dweights |= ctx->needs_input_grad(first_weight + i);
    const bool need_dx = ctx->needs_input_grad(0);
    const bool need_dhx = hx.has_value() && ctx->needs_input_grad(1);

    const auto call = [&] {
      return gru_bwd(optional(grad_outputs[0]), optional(grad_outputs[1]), x, hx, weights, batch_sizes,
                     ctx->saved_data["bidirectional"].toBool(), /*y=*/saved[3], /*gates=*/saved[4], need_dx, need_dhx,
                     need_dweights);
    };
    const auto [dx, dhx, dweights] = [&] {
      if (at::GradMode::is_enabled()) return call();  // create_graph: record the backward itself
      at::AutoDispatchBelowADInplaceOrView below_autograd;
      return call();
    }();

    variable_list grads = {need_dx ? dx : Tensor(), need_dhx ? dhx : Tensor()};
    for (size_t i = 0; i < weights.size(); ++i) grads.push_back(need_dweights ? dweights[i] : Tensor());
    grads.insert(grads.end(), {Tensor(), Tensor()});
    return grads;
  }
};

bool any_requires_grad(const Tensor& x, const std::optional<Tensor>& hx, TensorList weights) {
  if (x.requires_grad() || (hx.has_value() && hx->requires_grad())) return true;
  return std::any_of(weights.begin(), weights.end(), [](const Tensor& w) { return w.requires_grad(); });
}

}  // namespace

std::tuple<Tensor, Tensor> gru(const Tensor& x, const std::optional<Tensor>& hx, TensorList weights,
                               const std::optional<Tensor>& batch_sizes, bool bidirectional) {
  if (at::GradMode::is_enabled() && any_requires_grad(x, hx, weights)) {
    const variable_list outputs = GruFunction::apply(x, hx, weights, batch_sizes, bidirectional);
    return {outputs[0], outputs[1]};
  }
  auto [y, h_n, gates] = gru_fwd(x, hx, weights, batch_sizes, bidirectional, /*save_gates=*/false);
  return {y, h_n};
}

}  // namespace gru_ext
