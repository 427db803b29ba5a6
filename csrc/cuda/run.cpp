// The CUDA backend's operators: checks, the choice of kernel, and what happens where a chosen kernel cannot serve.
#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <functional>
#include <limits>
#include <mutex>
#include <optional>
#include <string>
#include <type_traits>

#include "cuda/choice/asked.h"
#include "cuda/choice/autotune.h"
#include "cuda/choice/choice.h"
#include "cuda/choice/records.h"
#include "cuda/choice/self_test.h"
#include "cuda/members.h"
#include "cuda/operators.h"
#include "cuda/products.h"
#include "cuda/stepwise/stepwise.h"
#include "op/check.h"
#include "op/dispatch.h"

namespace gru_ext {
namespace {

using at::Tensor;

std::mutex measuring;  // held by the thread that measures

// Runs a call, FwdCall or BwdCall, by one kernel or another.
template <typename Call>
class Runner {
 public:
  using Result = std::conditional_t<std::is_same_v<Call, FwdCall>, FwdResult, BwdResult>;

  explicit Runner(const Call& call) : call_(call) {}

  // By the kernels of choice, until there are results.
  Result by_choice(const KernelQuery& query) const {
    KernelChoice choice = choose_kernels(query);
    if (!choice.kind.empty() && measure(choice)) choice = choose_kernels(query);
    for (const Candidate& candidate : choice.candidates) {
      if (auto results = by_kernel(*candidate.kernel, choice.forced)) return *results;
    }
    TORCH_INTERNAL_ASSERT(false, "the last kernel of a choice gives results, or throws");
  }

  Result stepwise() const {
    const char* error = nullptr;
    return *run_with_members(stepwise_kernel(), call_, error);
  }

 private:
  // None where the kernel fails its self-test, which it has at its first call, or its launch. It does not serve on this
  // device any more then; but where there is not the memory to know, the next call tries again.
  std::optional<Result> by_kernel(const Kernel& kernel, bool forced) const {
    const Tensor& x = call_.layer.x;
    const char* error = nullptr;
    std::string fault;
    if (kernel.is_tested_first() && !record_of(kernel).tested) {
      try {
        fault = self_test(kernel, pass_of(call_), x.scalar_type(), x.device(), call_.stream);
      } catch (const c10::OutOfMemoryError&) {
        return no_memory(kernel, forced);
      }
      if (fault.empty()) mark_tested(kernel);
    }
    if (fault.empty()) {
      if (auto results = run_with_members(kernel, call_, error)) return results;
      if (is_out_of_memory(error)) return no_memory(kernel, forced);
      fault = std::string("it could not be launched: ") + error;
    }
    const std::string name = (pass_of(call_) == Pass::forward ? "forward " : "backward ") + kernel.name();
    rule_out(kernel, "the kernel " + name + " is not used any more on this device: " + fault);
    TORCH_CHECK(!forced, "gru: the kernel ", name, ", which gru_ext.use_cuda_kernels asks for, failed: ", fault);
    TORCH_WARN("gru: the kernel ", name, " is not used on ", x.device(), ", others take its place: ", fault,
               " (gru_ext was built by " GRU_EXT_CUDA_BUILD ")");
    return std::nullopt;
  }

  std::nullopt_t no_memory(const Kernel& kernel, bool forced) const {
    TORCH_CHECK_WITH(OutOfMemoryError, !forced, "gru: there is not the memory on ", call_.layer.x.device(),
                     " to test and launch the kernel ", kernel.name(), ", which gru_ext.use_cuda_kernels asks for");
    return std::nullopt;
  }

  // Whether it has measured the call by each of the kernels that may be the fastest. Not while another thread measures,
  // as they would disturb each other; to wait for it would stop a thread that may hold what that one needs.
  bool measure(const KernelChoice& choice) const {
    const std::unique_lock<std::mutex> lock(measuring, std::try_to_lock);
    if (!lock.owns_lock()) return false;
    Timings timings;
    for (const Candidate& candidate : choice.to_measure) {
      bool serves = true;
      const double seconds = seconds_of([&] { serves = serves && by_kernel(*candidate.kernel, /*forced=*/false); });
      if (serves) timings.push_back({candidate.kernel->name(), seconds});
    }
    keep_timings(choice.kind, std::move(timings));
    return true;
  }

  // Infinite where it cannot be told, or where there is not the memory.
  double seconds_of(const std::function<void()>& work) const {
    constexpr double kInfinite = std::numeric_limits<double>::infinity();
    try {
      const double seconds = measure_seconds(call_.stream, work);
      return seconds > 0 ? seconds : kInfinite;
    } catch (const c10::OutOfMemoryError&) {
      return kInfinite;
    }
  }

  const Call& call_;
};

// On the device of the tensors, and its current stream.
template <typename Call>
auto run_by_choice(Call call) {
  const c10::cuda::CUDAGuard device(call.layer.x.device());
  call.stream = c10::cuda::getCurrentCUDAStream().stream();
  const RnnPrecisionGuard precision;
  for (const Family* family : families()) family->check_earlier_calls();
  load_once(call.layer.x.scalar_type());
  const Runner<Call> runner(call);
  const Sequence& s = call.s;
  const Variant& variant = call.layer.variant;
  const bool other = !variant.reset_after || variant.layer_norm > 0;
  if (other) check_stepwise_may_serve(pass_of(call));
  if (s.N == 0 || other) return runner.stepwise();
  return runner.by_choice({pass_of(call), call.layer.x.scalar_type(), s.T, s.B, s.H, s.D, !s.packed_sizes.empty(),
                           variant.has_masks(), call.has_gates(), is_capturing(call.stream),
                           std::max<int64_t>(s.members, 1)});
}

}  // namespace

FwdResult gru_fwd_cuda(const Layer& layer, bool save_gates, bool save_y) {
  const BelowAutogradAndAutocast below;
  const Sequence s = check_fwd(layer);
  return run_by_choice(FwdCall{s, layer, save_gates, save_y});
}

BwdResult gru_bwd_cuda(const Backward& call) {
  const BelowAutogradAndAutocast below;
  const Sequence s = check_bwd(call);
  return run_by_choice(BwdCall{call, s});
}

FwdResult gru_fwd_members_cuda(const Layer& layer, bool save_gates) {
  const BelowAutogradAndAutocast below;
  const Sequence s = check_fwd_members(layer);
  return run_by_choice(FwdCall{s, layer, save_gates, /*save_y=*/true});
}

BwdResult gru_bwd_members_cuda(const Backward& call) {
  const BelowAutogradAndAutocast below;
  const Sequence s = check_bwd_members(call);
  // Of each member they are contiguous; kernels take those of all as one.
  return run_by_choice(
      BwdCall{{call.dy, call.dh_n, call.layer, call.y.contiguous(), call.gates.contiguous(), call.need}, s});
}

}  // namespace gru_ext
