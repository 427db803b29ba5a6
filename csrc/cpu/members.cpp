// The members of op/members.h on the CPU: at the same time, a thread each.
#include <ATen/ATen.h>

#include "cpu/buffers.h"
#include "cpu/call.h"
#include "cpu/members.h"
#include "cpu/op_cpu.h"
#include "cpu/results.h"
#include "op/check.h"
#include "op/members.h"

namespace gru_ext {

using at::Tensor;

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
    const auto dweights = need.dweights ? pooled_like(layer.weights) : std::vector<Tensor>();
    for_each_member(E, s, bwd_flops(s), [&](int64_t e) {
      gru_bwd_cpu_into(s, of_member(dy, e), of_member(dh_n, e), *Member(layer, e).layer, y.select(0, e),
                       gates.select(0, e), need, {dx.select(0, e), dhx.select(0, e), of_member(dweights, e)});
    });
    return BwdResult(dx, dhx, dweights);
  });
}

}  // namespace gru_ext
