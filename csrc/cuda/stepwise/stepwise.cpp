#include "cuda/stepwise/stepwise.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "cuda/device_types.h"
#include "cuda/products.h"
#include "cuda/results.h"
#include "cuda/stepwise/launchers.h"
#include "cuda/stepwise/steps.h"
#include "op/dispatch.h"

namespace gru_ext {
namespace {

using at::Tensor;

// The state, or its gradient, to be overwritten: (D, B, H) in the dtype of the sums, zero where there is none.
Tensor new_state(const Sequence& s, const std::optional<Tensor>& given, const at::TensorOptions& options) {
  return given.has_value() ? given->to(options, /*non_blocking=*/false, /*copy=*/true, at::MemoryFormat::Contiguous)
                           : at::zeros({s.D, s.B, s.H}, options);
}

class StepwiseKernel final : public Kernel {
 public:
  const Family& family() const override { return stepwise_family(); }
  std::string name() const override { return family().name(); }

  std::optional<FwdResult> run(const FwdCall& call, const char*&) const override {
    const Sequence& s = call.s;
    const Tensor& x = call.layer.x;
    const Tensor y = empty_y(s, x, call.save_y), gates = empty_gates(s, call.layer, call.save_gates);
    if (call.save_gates && s.has_gains) gates.narrow(-1, 9 * s.H, 16).zero_();
    const Tensor h = new_state(s, call.layer.hx, x.options().dtype(acc_dtype_of(x.scalar_type())));
    for (int64_t d = 0; d < s.D && s.N > 0; ++d) {
      gru_step_fwd(s, x, direction_of(s, call.layer, d), call.save_y ? y.narrow(-1, d * s.H, s.H) : Tensor(),
                   call.save_gates ? gates.select(0, d) : Tensor(), h.select(0, d), call.stream);
    }
    return FwdResult{y, h.to(x.scalar_type()), gates};
  }

  std::optional<BwdResult> run(const BwdCall& call, const char*&) const override {
    const Sequence& s = call.s;
    const Tensor& x = call.layer.x;
    const auto acc_options = x.options().dtype(acc_dtype_of(x.scalar_type()));
    const bool saved = were_saved(call.gates);
    const Tensor dx = call.need.dx ? at::empty({s.N, s.I}, acc_options) : Tensor();
    const Tensor h0 = contiguous_or_undefined(call.layer.hx), dy = unit_stride_or_undefined(call.dy);
    std::vector<DirectionGrads> grads = new_grads(s, call.layer, call.need.dweights);
    const Tensor dh = new_state(s, call.dh_n, acc_options);
    for (int64_t d = 0; d < s.D && s.N > 0; ++d) {
      const auto columns = [&](const Tensor& tensor) { return tensor.narrow(-1, d * s.H, s.H); };
      gru_step_bwd(s, x, direction_of(s, call.layer, d), dy.defined() ? columns(dy) : Tensor(), columns(call.y),
                   saved ? call.gates.select(0, d) : Tensor(), h0.defined() ? h0.select(0, d) : Tensor(),
                   dh.select(0, d), call.need.dhx, /*first=*/d == 0, grads[d], dx, call.stream);
    }
    return bwd_result(call, dx, dh, grads);
  }
};

class StepwiseFamily final : public Family {
 public:
  const char* name() const override { return "stepwise"; }
  std::vector<const Kernel*> kernels(Pass, at::ScalarType) const override { return {&stepwise_kernel()}; }
  std::vector<Candidate> candidates(const KernelQuery& query, const std::string&, WhyNot&) const override {
    return {{&stepwise_kernel(), stepwise_seconds(query)}};
  }
  bool load(at::ScalarType dtype) const override {
    return with_scalar_type(
        dtype, [](auto zero) { return load_gru_step_kernels<typename Device<decltype(zero)>::scalar_t>(); });
  }
};

}  // namespace

const Family& stepwise_family() {
  static const StepwiseFamily family;
  return family;
}

const Kernel& stepwise_kernel() {
  static const StepwiseKernel kernel;
  return kernel;
}

double bytes_of_weights(const KernelQuery& query) {
  return 3.0 * query.H * query.H * static_cast<double>(c10::elementSize(query.dtype));
}

double stepwise_seconds(const KernelQuery& query) {
  const double rate = query.dtype == at::kFloat || query.dtype == at::kDouble ? kProductRateFloat : kProductRate16Bit;
  const double product = std::max(3.0 * query.B * query.H * query.H / rate, bytes_of_weights(query) / kWeightBytes);
  return query.members * query.D * query.T * (kStepwiseStepSeconds + product);
}

}  // namespace gru_ext
