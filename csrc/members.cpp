// The operators `gru_fwd_members` and `gru_bwd_members`: layers of the same sizes with weights of their own, as they
// arise where torch.func.vmap goes over weights (gru_ext/autograd.py).
//
// Every tensor has a dimension of the E members before those of gru.h, batch_sizes excepted. On the CPU the members run
// at the same time, a thread each; on CUDA one after another.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "check.h"
#include "cpu/buffers.h"
#include "cpu/call.h"
#include "cpu/results.h"
#include "cpu/threads.h"
#include "gru.h"
#include "operators.h"
#include "registration.h"

namespace gru_ext {
namespace {

using at::Tensor;
using at::TensorList;

OptionalTensor of_member(const OptionalTensor& tensor, int64_t e) {
  return tensor.has_value() ? OptionalTensor(tensor->select(0, e)) : std::nullopt;
}

std::vector<Tensor> of_member(TensorList tensors, int64_t e) {
  std::vector<Tensor> members;
  for (const Tensor& tensor : tensors) members.push_back(tensor.select(0, e));
  return members;
}

// One member's part of a call.
struct Member {
  Member(const Layer& layer, int64_t e)
      : x(layer.x.select(0, e)), hx(of_member(layer.hx, e)), weights(of_member(layer.weights, e)) {
    Variant variant = layer.variant;
    for (OptionalTensor* mask : {&variant.zoneout_mask, &variant.recurrent_mask, &variant.candidate_mask}) {
      *mask = of_member(*mask, e);
    }
    this->layer.emplace(Layer{x, hx, weights, layer.batch_sizes, layer.bidirectional, variant});
  }

  Tensor x;
  OptionalTensor hx;
  std::vector<Tensor> weights;
  std::optional<Layer> layer;
};

// E, the first dimension of every tensor.
int64_t check_members(const Layer& layer, TensorList others) {
  const int64_t E = layer.x.dim() > 0 ? layer.x.size(0) : 0;
  TORCH_CHECK(E > 0, "gru: expected x of shape (E, T, B, I) or (E, N, I) with E >= 1 members, got ", layer.x.sizes());
  const auto check = [&](const Tensor& tensor) {
    TORCH_CHECK(tensor.dim() > 0 && tensor.size(0) == E, "gru: expected tensors of E = ", E,
                " members, got one of shape ", tensor.sizes());
  };
  for (const Tensor& weight : layer.weights) check(weight);
  const Variant& v = layer.variant;
  for (const OptionalTensor* given : {&layer.hx, &v.zoneout_mask, &v.recurrent_mask, &v.candidate_mask}) {
    if (given->has_value()) check(**given);
  }
  for (const Tensor& tensor : others) {
    if (tensor.defined()) check(tensor);
  }
  return E;
}

// Calls `body` with every member: with as many at the same time as there are threads; those that remain one after
// another where each is worth more threads than they are. `flops`: of a step of one direction.
template <typename Body>
void for_each_member(int64_t E, const Sequence& s, double flops, const Body& body) {
  const int threads = threads_for(/*steps=*/1, static_cast<double>(E) * s.D * s.T * flops);
  const int64_t remaining = E % threads;
  const int64_t together = threads == 1 ? 0 : remaining < threads_for(s.T, flops) ? E - remaining : E;
  at::parallel_for(0, together, /*grain_size=*/1, [&](int64_t begin, int64_t end) {
    for (int64_t e = begin; e < end; ++e) body(e);
  });
  for (int64_t e = together; e < E; ++e) body(e);
}

FwdResult gru_fwd_members_cpu(const Layer& layer, bool save_gates) {
  return call_on_cpu([&] {
    const int64_t E = check_members(layer, {});
    const Sequence s = check_fwd(*Member(layer, 0).layer);
    const auto options = layer.x.options();
    std::vector<int64_t> y_shape = layer.x.sizes().vec();
    y_shape.back() = s.D * s.H;
    std::vector<int64_t> gates_shape = {0};
    if (save_gates) gates_shape = layer.variant.gates_shape(s.D, s.N, s.H);
    gates_shape.insert(gates_shape.begin(), E);
    const FwdResult results{pooled_empty(y_shape, options), at::empty({E, s.D, s.B, s.H}, options),
                            pooled_empty(gates_shape, options)};
    for_each_member(E, s, fwd_flops(s), [&](int64_t e) {
      const auto& [y, h_n, gates] = results;
      gru_fwd_cpu_into(s, *Member(layer, e).layer, {y.select(0, e), h_n.select(0, e), gates.select(0, e)});
    });
    return results;
  });
}

BwdResult gru_bwd_members_cpu(const OptionalTensor& dy, const OptionalTensor& dh_n, const Layer& layer, const Tensor& y,
                              const Tensor& gates, Need need) {
  return call_on_cpu([&] {
    const int64_t E = check_members(layer, {dy.value_or(Tensor()), dh_n.value_or(Tensor()), y, gates});
    const Sequence s =
        check_bwd(of_member(dy, 0), of_member(dh_n, 0), *Member(layer, 0).layer, y.select(0, 0), gates.select(0, 0));
    const auto options = layer.x.options();
    const Tensor dx = pooled_empty(need.dx ? layer.x.sizes() : at::IntArrayRef{E, 0}, options);
    const Tensor dhx = at::empty(need.dhx ? at::IntArrayRef{E, s.D, s.B, s.H} : at::IntArrayRef{E, 0}, options);
    std::vector<Tensor> dweights;
    if (need.dweights) {
      for (const Tensor& weight : layer.weights) dweights.push_back(pooled_empty(weight.sizes(), options));
    }
    for_each_member(E, s, bwd_flops(s), [&](int64_t e) {
      gru_bwd_cpu_into(s, of_member(dy, e), of_member(dh_n, e), *Member(layer, e).layer, y.select(0, e),
                       gates.select(0, e), need, {dx.select(0, e), dhx.select(0, e), of_member(dweights, e)});
    });
    return BwdResult(dx, dhx, dweights);
  });
}

#if defined(GRU_EXT_WITH_CUDA)
FwdResult gru_fwd_members_cuda(const Layer& layer, bool save_gates) {
  const int64_t E = check_members(layer, {});
  std::vector<Tensor> y, h_n, gates;
  for (int64_t e = 0; e < E; ++e) {
    const auto result = gru_fwd_cuda(*Member(layer, e).layer, save_gates, /*save_y=*/true);
    y.push_back(std::get<0>(result));
    h_n.push_back(std::get<1>(result));
    gates.push_back(std::get<2>(result));
  }
  return {at::stack(y), at::stack(h_n), at::stack(gates)};
}

BwdResult gru_bwd_members_cuda(const OptionalTensor& dy, const OptionalTensor& dh_n, const Layer& layer,
                               const Tensor& y, const Tensor& gates, Need need) {
  const int64_t E = check_members(layer, {dy.value_or(Tensor()), dh_n.value_or(Tensor()), y, gates});
  std::vector<Tensor> dx, dhx;
  std::vector<std::vector<Tensor>> of_weights(need.dweights ? layer.weights.size() : 0);
  for (int64_t e = 0; e < E; ++e) {
    const auto result = gru_bwd_cuda(of_member(dy, e), of_member(dh_n, e), *Member(layer, e).layer, y.select(0, e),
                                     gates.select(0, e), need);
    dx.push_back(std::get<0>(result));
    dhx.push_back(std::get<1>(result));
    for (size_t i = 0; i < of_weights.size(); ++i) of_weights[i].push_back(std::get<2>(result)[i]);
  }
  std::vector<Tensor> dweights;
  for (const auto& members : of_weights) dweights.push_back(at::stack(members));
  return {at::stack(dx), at::stack(dhx), dweights};
}
#endif

}  // namespace
}  // namespace gru_ext

TORCH_LIBRARY_FRAGMENT(gru_ext, m) {
  if (!gru_ext::is_first_copy()) return;
  m.def(GRU_FWD_MEMBERS_SCHEMA);
  m.def(GRU_BWD_MEMBERS_SCHEMA);
}

TORCH_LIBRARY_IMPL(gru_ext, CPU, m) {
  if (!gru_ext::is_first_copy()) return;
  m.impl("gru_fwd_members", gru_ext::gru_fwd_members_operator<gru_ext::gru_fwd_members_cpu>);
  m.impl("gru_bwd_members", gru_ext::gru_bwd_operator<gru_ext::gru_bwd_members_cpu>);
}

#if defined(GRU_EXT_WITH_CUDA)
TORCH_LIBRARY_IMPL(gru_ext, CUDA, m) {
  if (!gru_ext::is_first_copy()) return;
  m.impl("gru_fwd_members", gru_ext::gru_fwd_members_operator<gru_ext::gru_fwd_members_cuda>);
  m.impl("gru_bwd_members", gru_ext::gru_bwd_operator<gru_ext::gru_bwd_members_cuda>);
}
#endif
