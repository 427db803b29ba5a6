// The operators `gru_fwd_members` and `gru_bwd_members`: layers of the same sizes with weights of their own, as they
// arise where torch.func.vmap goes over weights (src/gru_ext/members.py).
//
// Every tensor has a dimension of the E members before those of layer.h, batch_sizes excepted. Here is how a backend
// checks them, and runs them one after another.
#pragma once

#include <ATen/ATen.h>

#include <optional>
#include <vector>

#include "op/check.h"
#include "op/layer.h"

namespace gru_ext {

inline std::vector<at::Tensor> of_member(at::TensorList tensors, int64_t e) {
  std::vector<at::Tensor> members;
  for (const at::Tensor& tensor : tensors) members.push_back(tensor.select(0, e));
  return members;
}

// Of a tensor of all members that of one.
struct OfMember {
  int64_t e;
  at::Tensor operator()(const at::Tensor& tensor) const { return tensor.select(0, e); }
};

// One member's part of a call.
inline LayerOfParts member_of(const Layer& layer, int64_t e) {
  return parts_of(layer, OfMember{e}(layer.x), OfMember{e}, OfMember{e});
}

// E, the first dimension of every tensor.
inline int64_t check_members(const Layer& layer, at::TensorList others) {
  const int64_t E = layer.x.dim() > 0 ? layer.x.size(0) : 0;
  TORCH_CHECK(E > 0, "gru: expected x of shape (E, T, B, I) or (E, N, I) with E >= 1 members, got ", layer.x.sizes());
  const auto check = [&](const at::Tensor& tensor) {
    TORCH_CHECK(tensor.dim() > 0 && tensor.size(0) == E, "gru: expected tensors of E = ", E,
                " members, got one of shape ", tensor.sizes());
  };
  for (const at::Tensor& weight : layer.weights) check(weight);
  const Variant& v = layer.variant;
  for (const OptionalTensor* given : {&layer.hx, &v.zoneout_mask, &v.recurrent_mask, &v.candidate_mask}) {
    if (given->has_value()) check(**given);
  }
  for (const at::Tensor& tensor : others) {
    if (tensor.defined()) check(tensor);
  }
  return E;
}

// As check_fwd and check_bwd, which see the first member.
inline Sequence check_fwd_members(const Layer& layer) {
  const int64_t E = check_members(layer, {});
  Sequence s = check_fwd(member_of(layer, 0).layer());
  s.members = E;
  return s;
}
inline Sequence check_bwd_members(const Backward& call) {
  const auto given = [](const OptionalTensor& tensor) { return tensor.value_or(at::Tensor()); };
  const int64_t E = check_members(call.layer, {given(call.dy), given(call.dh_n), call.y, call.gates});
  const OfMember first{0};
  Sequence s = check_bwd({part_of(call.dy, first), part_of(call.dh_n, first), member_of(call.layer, 0).layer(),
                          first(call.y), first(call.gates), call.need});
  s.members = E;
  return s;
}

// The results of `run(member)` for each member, a Layer, one after another; none as soon as it returns none.
template <typename Run>
std::optional<FwdResult> each_member_fwd(const Layer& layer, const Run& run) {
  std::vector<at::Tensor> y, h_n, gates;
  for (int64_t e = 0; e < layer.x.size(0); ++e) {
    const std::optional<FwdResult> result = run(member_of(layer, e).layer());
    if (!result.has_value()) return std::nullopt;
    y.push_back(std::get<0>(*result));
    h_n.push_back(std::get<1>(*result));
    gates.push_back(std::get<2>(*result));
  }
  return FwdResult{at::stack(y), at::stack(h_n), at::stack(gates)};
}

// The same of the backward: `run(member, e)`.
template <typename Run>
std::optional<BwdResult> each_member_bwd(const Layer& layer, const Run& run) {
  std::vector<at::Tensor> dx, dhx;
  std::vector<std::vector<at::Tensor>> of_weights;
  for (int64_t e = 0; e < layer.x.size(0); ++e) {
    const std::optional<BwdResult> result = run(member_of(layer, e).layer(), e);
    if (!result.has_value()) return std::nullopt;
    dx.push_back(std::get<0>(*result));
    dhx.push_back(std::get<1>(*result));
    const std::vector<at::Tensor>& dweights = std::get<2>(*result);
    of_weights.resize(dweights.size());
    for (size_t i = 0; i < dweights.size(); ++i) of_weights[i].push_back(dweights[i]);
  }
  std::vector<at::Tensor> dweights;
  for (const auto& members : of_weights) dweights.push_back(at::stack(members));
  return BwdResult{at::stack(dx), at::stack(dhx), dweights};
}

}  // namespace gru_ext
