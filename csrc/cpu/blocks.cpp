// The blocks of op/blocks.h on the CPU: at the same time, a thread each. A block reads and writes its units of the
// states and of their gradients where they are. Its rows of the weights, and of their gradients, are not consecutive:
// its thread copies them, when it is their turn, so that they are in its cache.
#include "op/blocks.h"

#include <ATen/ATen.h>

#include <optional>
#include <vector>

#include "cpu/buffers.h"
#include "cpu/call.h"
#include "cpu/members.h"
#include "cpu/op_cpu.h"
#include "cpu/pass.h"
#include "cpu/results.h"
#include "op/check.h"

namespace gru_ext {
namespace {

using at::Tensor;

// A block as a layer of its own.
LayerOfParts layer_of(const Block& block, const Layer& layer) {
  return parts_of(
      layer, layer.x, [&](const Tensor& states) { return block.units(states); },
      [&](const Tensor& weight) { return block.rows(weight).flatten(0, 1); });
}

}  // namespace

FwdResult gru_fwd_blocks_cpu(const Layer& layer, bool save_gates) {
  return call_on_cpu([&] {
    const int64_t G = blocks_of(layer.weights);
    const Sequence s = check_fwd(layer, G);
    const FwdResult results = new_results(s, layer, save_gates, G);
    for_each_member(G, s, fwd_vector_flops(s, layer.x.scalar_type()), [&](int64_t g) {
      const auto& [y, h_n, gates] = results;
      const Block block{g, s.H};
      gru_fwd_cpu_into(s, layer_of(block, layer).layer(),
                       {block.from_first_unit(y), block.units(h_n), gates.select(0, g)});
    });
    return results;
  });
}

BwdResult gru_bwd_blocks_cpu(const Backward& call) {
  return call_on_cpu([&] {
    const Layer& layer = call.layer;
    const Tensor& gates = call.gates;
    const Need need = call.need;
    const int64_t G = blocks_of(layer.weights);
    TORCH_CHECK(gates.dim() > 0 && gates.size(0) == G, "gru: expected gates of G = ", G, " blocks, got ",
                gates.sizes());
    const Sequence s = check_bwd({call.dy, call.dh_n, layer, call.y, gates.select(0, 0), need}, G);
    const auto options = layer.x.options();
    const Tensor dhx = need.dhx ? at::empty({s.D, s.B, s.all_H}, options) : at::empty({0}, options);
    const auto dweights = need.dweights ? pooled_like(layer.weights) : std::vector<Tensor>();
    std::vector<int64_t> dx_shape = {0};
    if (need.dx) dx_shape = layer.x.sizes().vec();
    Tensor dx = pooled_empty(dx_shape, options);
    dx_shape.insert(dx_shape.begin(), G);
    const Tensor dx_of_blocks = pooled_empty(dx_shape, options);
    const OptionalTensor rows_of_dy = part_of(call.dy, with_contiguous_rows);
    for_each_member(G, s, bwd_vector_flops(s, layer.x.scalar_type()), [&](int64_t g) {
      const Block block{g, s.H};
      const auto columns = [&](const Tensor& states) { return block.from_first_unit(states); };
      const auto units = [&](const Tensor& states) { return block.units(states); };
      const LayerOfParts own = layer_of(block, layer);
      const auto own_dweights = need.dweights ? pooled_like(own.weights) : std::vector<Tensor>();
      gru_bwd_cpu_into(s,
                       {part_of(rows_of_dy, columns), part_of(call.dh_n, units), own.layer(), columns(call.y),
                        gates.select(0, g), need},
                       {dx_of_blocks.select(0, g), need.dhx ? units(dhx) : dhx, own_dweights});
      for (size_t i = 0; i < own_dweights.size(); ++i) {
        const Tensor target = block.rows(dweights[i]);
        target.copy_(own_dweights[i].view(target.sizes()));
      }
    });
    if (need.dx) at::sum_out(dx, dx_of_blocks, 0);
    return BwdResult(dx, dhx, dweights);
  });
}

}  // namespace gru_ext
