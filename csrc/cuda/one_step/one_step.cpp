// The one-step family: a plain layer of one time step, all directions in one launch, on the current device and without
// waiting for it.
#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

#include "cuda/arguments.h"
#include "cuda/one_step/launchers.h"
#include "cuda/results.h"
#include "cuda/stepwise/stepwise.h"
#include "op/dispatch.h"

namespace gru_ext {
namespace {

using at::Tensor;

// The product of weights (3H, F), one for each direction, and rows of F values.
template <typename at_t>
auto product_of(const Tensor (&weights)[2], const Tensor& operand, int64_t direction_stride) {
  GruOneStepProduct<typename Device<at_t>::scalar_t> product{};
  product.length = operand.size(-1);
  product.operand = readable<at_t>(operand);
  product.direction_stride = direction_stride;
  product.row_stride = operand.stride(-2);
  product.value_stride = operand.stride(-1);
  product.aligned = product.value_stride == 1 && rows_are_aligned(operand, 16);
  for (size_t d = 0; d < 2 && weights[d].defined(); ++d) {
    product.weight[d] = readable<at_t>(weights[d]);
    product.aligned = product.aligned && rows_are_aligned(weights[d], 16);
  }
  return product;
}

template <typename at_t>
void one_step(const Sequence& s, const Layer& layer, const Tensor& y, const Tensor& h_n, const Tensor& gates,
              Stream stream) {
  GruOneStepFwdParams<typename Device<at_t>::scalar_t> p{};
  p.B = s.B;
  p.H = s.H;
  p.D = s.D;
  Tensor weight_ih[2], weight_hh[2], bias_ih[2], bias_hh[2];
  for (int64_t d = 0; d < s.D; ++d) {
    const Tensor* const of_direction = &layer.weights[d * s.weights_per_direction()];
    weight_ih[d] = of_direction[0].contiguous();
    weight_hh[d] = of_direction[1].contiguous();
    if (!s.has_bias) continue;
    bias_ih[d] = of_direction[2].contiguous();
    bias_hh[d] = of_direction[3].contiguous();
    p.bias_ih[d] = readable<at_t>(bias_ih[d]);
    p.bias_hh[d] = readable<at_t>(bias_hh[d]);
  }
  p.of_x = product_of<at_t>(weight_ih, layer.x, /*direction_stride=*/0);
  if (layer.hx.has_value()) p.of_h = product_of<at_t>(weight_hh, *layer.hx, layer.hx->stride(0));
  p.y = writable<at_t>(y);
  p.h_n = writable<at_t>(h_n);
  p.gates = writable<at_t>(gates);
  check_launch(launch_gru_one_step_fwd(p, stream));
}

// ---- The time of a call, T = 1, as in decoding. Every call reads the weights from memory once, W and R together; I is
// taken for H, as the choice does not know it. The one-step kernel reads them once for every tile of rows, from the L2
// cache for all but one, and may have more to multiply than to read. Any other call spends kClusterSeconds, or
// kStepwiseStepSeconds, beside the reading.

constexpr int64_t kMostRows = 64;  // beyond, products are what tensor cores are for
constexpr int64_t kTileRows = 8;   // of the largest tile, one_step.cuh

double weight_seconds(const KernelQuery& query) {
  return 2 * query.members * query.D * bytes_of_weights(query) / kWeightBytes;
}

double seconds_of_call(const KernelQuery& query) {
  const int64_t tiles = (query.B + kTileRows - 1) / kTileRows;
  const double multiply_adds = 6.0 * query.members * query.D * query.H * query.H * std::min(query.B, kTileRows);
  const double rate = query.dtype == at::kDouble ? kOneStepMultiplyAdds / 2 : kOneStepMultiplyAdds;
  return query.members * kOneStepSeconds + tiles * std::max(weight_seconds(query), multiply_adds / rate);
}

double seconds_of_others(const KernelQuery& query) {
  return weight_seconds(query) + std::min(query.members * query.D * kStepwiseStepSeconds, kClusterSeconds);
}

class OneStepKernel final : public Kernel {
 public:
  const Family& family() const override { return one_step_family(); }
  std::string name() const override { return family().name(); }

  // Besides the results no memory is taken, unless a weight is not contiguous.
  std::optional<FwdResult> run(const FwdCall& call, const char*&) const override {
    const Sequence& s = call.s;
    const Tensor y = empty_y(s, call.layer.x, call.save_y), gates = empty_gates(s, call.layer, call.save_gates);
    const Tensor h_n = at::empty({s.D, s.B, s.H}, call.layer.x.options());
    with_scalar_type(call.layer.x.scalar_type(), [&](auto zero) {
      one_step<decltype(zero)>(s, call.layer, call.save_y ? y : Tensor(), h_n, call.save_gates ? gates : Tensor(),
                               call.stream);
    });
    return FwdResult{y, h_n, gates};
  }

  std::string why(const KernelQuery& query, const Candidate&) const override {
    return words("one launch reads all weights once: by the time model, with I = H, %.3g ms, others %.3g ms",
                 1e3 * seconds_of_call(query), 1e3 * seconds_of_others(query));
  }
};

class OneStepFamily final : public Family {
 public:
  const char* name() const override { return "one_step"; }

  std::vector<const Kernel*> kernels(Pass pass, at::ScalarType) const override {
    static const OneStepKernel kernel;
    if (pass == Pass::backward) return {};
    return {&kernel};
  }

  std::vector<Candidate> candidates(const KernelQuery& query, const std::string& asked, WhyNot&) const override {
    std::vector<Candidate> found;
    if (query.T != 1 || query.B > kMostRows || query.masked) return found;
    // What is faster than any other call could be, of whatever family, is so without W x too.
    const double seconds = seconds_of_call(query);
    const double without_input =
        seconds < seconds_of_others(query) ? seconds - weight_seconds(query) : std::numeric_limits<double>::infinity();
    for (const Kernel* kernel : kernels(query.pass, query.dtype)) {
      if (is_asked_for(*kernel, asked)) found.push_back({kernel, without_input});
    }
    return found;
  }

  bool leads() const override { return true; }

  bool load(at::ScalarType dtype) const override {
    return with_scalar_type(
        dtype, [](auto zero) { return load_gru_one_step_kernels<typename Device<decltype(zero)>::scalar_t>(); });
  }

  std::string refusal(const KernelQuery& query, const WhyNot&) const override {
    return words("which serves calls with T = 1 and B up to %lld, and none with T = %lld, B = %lld%s",
                 static_cast<long long>(kMostRows), static_cast<long long>(query.T), static_cast<long long>(query.B),
                 query.masked ? " with zoneout or dropouts" : "");
  }
};

}  // namespace

const Family& one_step_family() {
  static const OneStepFamily family;
  return family;
}

}  // namespace gru_ext
