// The members of op/members.h on the CPU: at the same time, a thread each.
#include <ATen/ATen.h>

#include "cpu/buffers.h"
#include "cpu/call.h"
#include "cpu/members.h"
#include "cpu/op_cpu.h"
#include "cpu/results.h"
#include "op/members.h"

namespace gru_ext {

using at::Tensor;

FwdResult gru_fwd_members_cpu(const Layer& layer, bool save_gates) {
  return call_on_cpu([&] {
    const Sequence s = check_fwd_members(layer);
    const FwdResult results = new_results(s, layer, save_gates, s.members);
    for_each_member(s.members, s, fwd_vector_flops(s, layer.x.scalar_type()), [&](int64_t e) {
      const auto& [y, h_n, gates] = results;
      gru_fwd_cpu_into(s, member_of(layer, e).layer(), {y.select(0, e), h_n.select(0, e), gates.select(0, e)});
    });
    return results;
  });
}

BwdResult gru_bwd_members_cpu(const Backward& call) {
  return call_on_cpu([&] {
    const Sequence s = check_bwd_members(call);
    const int64_t E = s.members;
    const auto options = call.layer.x.options();
    const Tensor dx = pooled_empty(call.need.dx ? call.layer.x.sizes() : at::IntArrayRef{E, 0}, options);
    const Tensor dhx = at::empty(call.need.dhx ? at::IntArrayRef{E, s.D, s.B, s.H} : at::IntArrayRef{E, 0}, options);
    const auto dweights = call.need.dweights ? pooled_like(call.layer.weights) : std::vector<Tensor>();
    for_each_member(E, s, bwd_vector_flops(s, call.layer.x.scalar_type()), [&](int64_t e) {
      const OfMember member{e};
      gru_bwd_cpu_into(s,
                       {part_of(call.dy, member), part_of(call.dh_n, member), member_of(call.layer, e).layer(),
                        member(call.y), member(call.gates), call.need},
                       {member(dx), member(dhx), of_member(dweights, e)});
    });
    return BwdResult(dx, dhx, dweights);
  });
}

}  // namespace gru_ext
