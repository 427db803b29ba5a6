// The CUDA backend's operators: checks, the choice of kernel, and what happens where a chosen kernel cannot serve.
#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <functional>
#include <limits>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "../check.h"
#include "../dispatch.h"
#include "../gru.h"
#include "autotune.h"
#include "gru_one_step.h"
#include "kernel_choice.h"
#include "layer.h"
#include "products.h"
#include "self_test.h"

namespace gru_ext {
namespace {

using at::Tensor;

std::mutex measuring;  // held by the thread that measures

// Which kernels a call is run by: a cluster kernel, or the one-step kernel; neither, for the stepwise ones.
struct By {
  const ClusterKernel* cluster;
  bool one_step;
};

// Runs a call by one kernel or another: `Run` takes which, and where to leave what went wrong, and returns the results,
// or none.
template <typename Run>
class Runner {
 public:
  Runner(Pass pass, const Layer& layer, Stream stream, const Run& run)
      : pass_(pass), layer_(layer), stream_(stream), run_(run) {}

  // By the kernels of choice, then by the stepwise ones, until there are results.
  auto by_choice(const KernelQuery& query) const {
    KernelChoice choice = choose_kernels(query);
    if (!choice.kind.empty() && measure(choice)) choice = choose_kernels(query);
    if (choice.one_step) return one_step();
    for (Candidate& candidate : choice.clusters) {
      if (auto results = by_cluster(candidate, choice.forced)) return *results;
    }
    return stepwise();
  }

  auto stepwise() const {
    const char* error = nullptr;
    return *run_({nullptr, /*one_step=*/false}, error);
  }

 private:
  auto one_step() const {
    const char* error = nullptr;
    return *run_({nullptr, /*one_step=*/true}, error);
  }

  // None where the kernel fails its self-test, which it has at its first call, or its launch. It does not serve on this
  // device any more then; but where there is not the memory to know, the next call tries again.
  auto by_cluster(Candidate& candidate, bool forced) const {
    const Tensor& x = layer_.x;
    const char* error = nullptr;
    std::string fault;
    if (!candidate.tested) {
      try {
        fault = self_test(*candidate.kernel, pass_, x.scalar_type(), x.device(), stream_);
      } catch (const c10::OutOfMemoryError&) {
        return no_memory(candidate, forced);
      }
      if (fault.empty()) mark_tested(*candidate.kernel);
      candidate.tested = true;
    }
    if (fault.empty()) {
      if (auto results = run_({candidate.kernel, /*one_step=*/false}, error)) return results;
      if (is_out_of_memory(error)) return no_memory(candidate, forced);
      fault = std::string("it could not be launched: ") + error;
    }
    const std::string name = (pass_ == Pass::forward ? "forward " : "backward ") + name_of(*candidate.kernel);
    rule_out(*candidate.kernel, "the kernel " + name + " is not used any more on this device: " + fault);
    TORCH_CHECK(!forced, "gru: the kernel ", name, ", which gru_ext.use_cuda_kernels asks for, failed: ", fault);
    TORCH_WARN("gru: the kernel ", name, " is not used on ", x.device(), ", others take its place: ", fault,
               " (gru_ext was built by " GRU_EXT_CUDA_BUILD ")");
    return decltype(run_({}, error))();
  }

  auto no_memory(const Candidate& candidate, bool forced) const {
    TORCH_CHECK_WITH(OutOfMemoryError, !forced, "gru: there is not the memory on ", layer_.x.device(),
                     " to test and launch the kernel ", name_of(*candidate.kernel),
                     ", which gru_ext.use_cuda_kernels asks for");
    const char* error = nullptr;
    return decltype(run_({}, error))();
  }

  // Whether it has measured the call by each of the kernels that may be the fastest. Not while another thread measures,
  // as they would disturb each other; to wait for it would stop a thread that may hold what that one needs.
  bool measure(KernelChoice& choice) const {
    const std::unique_lock<std::mutex> lock(measuring, std::try_to_lock);
    if (!lock.owns_lock()) return false;
    Timings timings;
    for (Candidate& candidate : choice.to_measure) {
      bool serves = true;
      const double seconds = seconds_of([&] { serves = serves && by_cluster(candidate, /*forced=*/false); });
      if (serves) timings.push_back({name_of(*candidate.kernel), seconds});
    }
    if (choice.measure_one_step) timings.push_back({"one_step", seconds_of([&] { one_step(); })});
    timings.push_back({"stepwise", seconds_of([&] { stepwise(); })});
    keep_timings(choice.kind, std::move(timings));
    return true;
  }

  // Infinite where it cannot be told, or where there is not the memory.
  double seconds_of(const std::function<void()>& work) const {
    constexpr double kInfinite = std::numeric_limits<double>::infinity();
    try {
      const double seconds = measure_seconds(stream_, work);
      return seconds > 0 ? seconds : kInfinite;
    } catch (const c10::OutOfMemoryError&) {
      return kInfinite;
    }
  }

  const Pass pass_;
  const Layer& layer_;
  const Stream stream_;
  const Run& run_;
};

// `keeps_gates` as in KernelQuery.
template <typename Run>
auto run_by_choice(Pass pass, const Sequence& s, const Layer& layer, bool keeps_gates, Stream stream, const Run& run) {
  check_earlier_calls();
  const Runner<Run> runner(pass, layer, stream, run);
  const bool other = !layer.variant.reset_after || layer.variant.layer_norm > 0;
  if (other) check_stepwise_may_serve(pass);
  if (s.N == 0 || other) return runner.stepwise();
  const bool packed = !s.packed_sizes.empty(), masked = layer.variant.has_masks();
  return runner.by_choice(
      {pass, layer.x.scalar_type(), s.T, s.B, s.H, s.D, packed, masked, keeps_gates, is_capturing(stream)});
}

}  // namespace

FwdResult gru_fwd_cuda(const Layer& layer, bool save_gates, bool save_y) {
  const BelowAutogradAndAutocast below;
  const Sequence s = check_fwd(layer);
  const c10::cuda::CUDAGuard device(layer.x.device());
  const Stream stream = c10::cuda::getCurrentCUDAStream().stream();
  const RnnPrecisionGuard precision;
  return run_by_choice(Pass::forward, s, layer, save_gates, stream, [&](By by, const char*& error) {
    return by.one_step ? std::optional(gru_one_step_fwd(s, layer, save_gates, save_y, stream))
                       : layer_fwd(by.cluster, s, layer, save_gates, save_y, stream, error);
  });
}

BwdResult gru_bwd_cuda(const std::optional<Tensor>& dy, const std::optional<Tensor>& dh_n, const Layer& layer,
                       const Tensor& y, const Tensor& gates, Need need) {
  const BelowAutogradAndAutocast below;
  const Sequence s = check_bwd(dy, dh_n, layer, y, gates);
  const c10::cuda::CUDAGuard device(layer.x.device());
  const Stream stream = c10::cuda::getCurrentCUDAStream().stream();
  const RnnPrecisionGuard precision;
  return run_by_choice(Pass::backward, s, layer, were_saved(gates), stream, [&](By by, const char*& error) {
    return layer_bwd(by.cluster, s, dy, dh_n, layer, y, gates, need, stream, error);
  });
}

}  // namespace gru_ext
