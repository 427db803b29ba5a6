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
#include "op/schemas.h"

namespace gru_ext {
namespace {

using at::Tensor;

// A block as a layer of its own.
struct LayerOfBlock {
  LayerOfBlock(const Layer& layer, const Block& block) {
    if (layer.hx.has_value()) hx = block.units(*layer.hx);
    for (const Tensor& weight : layer.weights) weights.push_back(block.rows(weight).flatten(0, 1));
    Variant variant = layer.variant;
    for (OptionalTensor* mask : {&variant.zoneout_mask, &variant.recurrent_mask, &variant.candidate_mask}) {
      if (mask->has_value()) *mask = block.units(**mask);
    }
    this->layer.emplace(Layer{layer.x, hx, weights, layer.batch_sizes, layer.bidirectional, variant});
  }

  OptionalTensor hx;
  std::vector<Tensor> weights;
  std::optional<Layer> layer;
};

}  // namespace

FwdResult gru_fwd_blocks_cpu(const Layer& layer, bool save_gates) {
  return call_on_cpu([&] {
    const int64_t G = blocks_of(layer.weights);
    const Sequence s = check_fwd(layer, G);
    const auto options = layer.x.options();
    std::vector<int64_t> y_shape = layer.x.sizes().vec();
    y_shape.back() = s.D * s.all_H;
    std::vector<int64_t> gates_shape = {0};
    if (save_gates) gates_shape = layer.variant.gates_shape(s.D, s.N, s.H);
    gates_shape.insert(gates_shape.begin(), G);
    const FwdResult results{pooled_empty(y_shape, options), at::empty({s.D, s.B, s.all_H}, options),
                            pooled_empty(gates_shape, options)};
    for_each_member(G, s, fwd_flops(s), [&](int64_t g) {
      const auto& [y, h_n, gates] = results;
      const Block block{g, s.H};
      gru_fwd_cpu_into(s, *LayerOfBlock(layer, block).layer,
                       {block.from_first_unit(y), block.units(h_n), gates.select(0, g)});
    });
    return results;
  });
}

BwdResult gru_bwd_blocks_cpu(const OptionalTensor& dy, const OptionalTensor& dh_n, const Layer& layer, const Tensor& y,
                             const Tensor& gates, Need need) {
  return call_on_cpu([&] {
    const int64_t G = blocks_of(layer.weights);
    TORCH_CHECK(gates.dim() > 0 && gates.size(0) == G, "gru: expected gates of G = ", G, " blocks, got ",
                gates.sizes());
    const Sequence s = check_bwd(dy, dh_n, layer, y, gates.select(0, 0), G);
    const auto options = layer.x.options();
    const Tensor dhx = need.dhx ? at::empty({s.D, s.B, s.all_H}, options) : at::empty({0}, options);
    const auto dweights = need.dweights ? pooled_like(layer.weights) : std::vector<Tensor>();
    std::vector<int64_t> dx_shape = {0};
    if (need.dx) dx_shape = layer.x.sizes().vec();
    Tensor dx = pooled_empty(dx_shape, options);
    dx_shape.insert(dx_shape.begin(), G);
    const Tensor dx_of_blocks = pooled_empty(dx_shape, options);
    const OptionalTensor rows_of_dy = dy.has_value() ? OptionalTensor(with_contiguous_rows(*dy)) : std::nullopt;
    for_each_member(G, s, bwd_flops(s), [&](int64_t g) {
      const Block block{g, s.H};
      const OptionalTensor own_dy = dy.has_value() ? OptionalTensor(block.from_first_unit(*rows_of_dy)) : std::nullopt;
      const OptionalTensor own_dh_n = dh_n.has_value() ? OptionalTensor(block.units(*dh_n)) : std::nullopt;
      const LayerOfBlock own(layer, block);
      const auto own_dweights = need.dweights ? pooled_like(own.weights) : std::vector<Tensor>();
      gru_bwd_cpu_into(s, own_dy, own_dh_n, *own.layer, block.from_first_unit(y), gates.select(0, g), need,
                       {dx_of_blocks.select(0, g), need.dhx ? block.units(dhx) : dhx, own_dweights});
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
