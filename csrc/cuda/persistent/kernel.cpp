#include "cuda/persistent/kernel.h"

#include <ATen/ATen.h>

#include "cuda/device_types.h"
#include "cuda/persistent/all_steps.h"
#include "cuda/persistent/device_facts.h"
#include "cuda/persistent/windows.h"
#include "cuda/results.h"
#include "op/members.h"

namespace gru_ext {
namespace {

using at::Tensor;

// Their tensors are those of `directions`.
PersistentMasks masks_of_layer(const Layer& layer, const std::vector<StepDirection>& directions) {
  PersistentMasks masks;
  for (size_t d = 0; d < directions.size() && layer.variant.has_masks(); ++d) {
    masks.of[d] = masks_of<float>(directions[d]);
  }
  return masks;
}

// Of every member.
std::vector<StepDirection> directions_of_members(const Sequence& s, const Layer& layer) {
  if (s.members == 0) return directions_of(s, layer);
  std::vector<StepDirection> all;
  for (int64_t e = 0; e < s.members; ++e) {
    for (StepDirection& direction : directions_of(s, member_of(layer, e).layer())) all.push_back(std::move(direction));
  }
  return all;
}

}  // namespace

std::optional<FwdResult> PersistentKernel::run(const FwdCall& call, const char*& error) const {
  const Sequence& s = call.s;
  const Layer& layer = call.layer;
  const Tensor& x = layer.x;
  // The kernel writes y in any case.
  const Tensor y = empty_y(s, x, /*save_y=*/true), gates = empty_gates(s, layer, call.save_gates);
  const Tensor h_n = at::empty(s.shape({s.D, s.B, s.H}), x.options());
  const Tensor h0 = contiguous_or_undefined(layer.hx);
  const auto directions = layer.variant.has_masks() ? directions_of(s, layer) : std::vector<StepDirection>();
  const PersistentMasks masks = masks_of_layer(layer, directions);
  const PersistentFwd all{x,           h0,        layer.weights, masks, y, h_n, call.save_gates ? gates : Tensor(),
                          call.stream, call.error};
  error = call.save_gates ? persistent_fwd(*this, s, all) : windows_fwd(*this, s, all);
  if (error != nullptr) return std::nullopt;
  return FwdResult{call.save_y ? y : empty_y(s, x, /*save_y=*/false), h_n, gates};
}

std::optional<BwdResult> PersistentKernel::run(const BwdCall& call, const char*& error) const {
  const Sequence& s = call.s;
  const Layer& layer = call.layer;
  const Tensor& x = layer.x;
  const bool saved = call.has_gates();
  const auto dx_options = saved ? x.options().dtype(acc_dtype_of(x.scalar_type())) : x.options();
  const Tensor dx = call.need.dx ? at::empty(s.shape({s.N, s.I}), dx_options) : Tensor();
  const Tensor h0 = contiguous_or_undefined(layer.hx), dy = unit_stride_or_undefined(call.dy);
  const Tensor dh_n = contiguous_or_undefined(call.dh_n);
  std::vector<DirectionGrads> grads = new_grads(s, layer, call.need.dweights);
  const Tensor dh = at::empty(s.shape({s.D, s.B, s.H}), x.options());
  const bool has_masks = layer.variant.has_masks();
  const auto directions = !saved || has_masks ? directions_of_members(s, layer) : std::vector<StepDirection>();
  const PersistentMasks masks = masks_of_layer(layer, directions);
  const PersistentBwd all{x,          h0, layer.weights, masks, dy,          dh_n,      call.y,
                          call.gates, dh, grads,         dx,    call.stream, call.error};
  error = saved ? persistent_bwd(*this, s, all) : windows_bwd(*this, s, directions, all);
  if (error != nullptr) return std::nullopt;
  return bwd_result(call, dx, dh, grads);
}

TestSize PersistentKernel::test_size() const {
  // Two tiles, of which the second has one row; an H of which the last pair of units is beyond.
  return {entry_.rows + 1, most_tested() - 2, is_for_masks()};
}

std::string PersistentKernel::how(const KernelQuery& query, const Candidate& candidate) const {
  return words("; %lld clusters, %d at a time", static_cast<long long>(clusters(query)), candidate.at_a_time);
}

}  // namespace gru_ext
