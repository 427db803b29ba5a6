// The CUDA backend's operators: checks, the choice of kernel, and what happens where a chosen kernel cannot serve.
#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <vector>

#include "../check.h"
#include "../dispatch.h"
#include "../gru.h"
#include "gru_one_step.h"
#include "kernel_choice.h"
#include "layer.h"
#include "products.h"
#include "self_test.h"

namespace gru_ext {
namespace {

using at::Tensor;

KernelQuery query_of(Pass pass, const Sequence& s, const Layer& layer, bool capturing) {
  return {pass, layer.x.scalar_type(), s.T, s.B, s.H, s.D, !s.packed_sizes.empty(), capturing};
}

// Calls `run` with the kernels of choice, then with null for the stepwise ones, until it returns results. A cluster
// kernel that fails its self-test or its launch does not serve on this device any more.
template <typename Run>
auto run_by_choice(Pass pass, const Sequence& s, const Layer& layer, Stream stream, const Run& run) {
  const char* error = nullptr;
  if (s.N > 0 && layer.variant.is_plain()) {
    const Tensor& x = layer.x;
    const KernelQuery query = query_of(pass, s, layer, is_capturing(stream));
    const KernelChoice choice = choose_kernels(query);
    std::string fault;
    for (const Candidate& candidate : choice.clusters) {
      if (!candidate.tested) {
        fault = self_test(*candidate.kernel, pass, x.scalar_type(), x.device(), stream);
        if (fault.empty()) mark_tested(*candidate.kernel);
      }
      if (fault.empty()) {
        if (auto results = run(candidate.kernel, error)) return *results;
        fault = std::string("it could not be launched: ") + error;
      }
      const std::string name = (pass == Pass::forward ? "forward " : "backward ") + name_of(*candidate.kernel);
      rule_out(*candidate.kernel, "the kernel " + name + " is not used any more on this device: " + fault);
      TORCH_CHECK(!choice.forced, "gru: the kernel ", name,
                  ", which gru_ext.use_cuda_kernels asks for, failed: ", fault);
      TORCH_WARN("gru: the kernel ", name, " is not used on ", x.device(), ", others take its place: ", fault,
                 " (gru_ext was built by " GRU_EXT_CUDA_BUILD ")");
      fault.clear();
    }
  }
  return *run(nullptr, error);
}

}  // namespace

FwdResult gru_fwd_cuda(const Layer& layer, bool save_gates, bool save_y) {
  const BelowAutogradAndAutocast below;
  const Sequence s = check_fwd(layer);
  const c10::cuda::CUDAGuard device(layer.x.device());
  const Stream stream = c10::cuda::getCurrentCUDAStream().stream();
  const RnnPrecisionGuard precision;
  check_earlier_calls();
  if (s.N > 0 && layer.variant.is_plain() && one_step_serves(query_of(Pass::forward, s, layer, /*capturing=*/false))) {
    return gru_one_step_fwd(s, layer, save_gates, save_y, stream);
  }
  return run_by_choice(Pass::forward, s, layer, stream, [&](const ClusterKernel* kernel, const char*& error) {
    return layer_fwd(kernel, s, layer, save_gates, save_y, stream, error);
  });
}

BwdResult gru_bwd_cuda(const std::optional<Tensor>& dy, const std::optional<Tensor>& dh_n, const Layer& layer,
                       const Tensor& y, const Tensor& gates, Need need) {
  const BelowAutogradAndAutocast below;
  const Sequence s = check_bwd(dy, dh_n, layer, y, gates);
  const c10::cuda::CUDAGuard device(layer.x.device());
  const Stream stream = c10::cuda::getCurrentCUDAStream().stream();
  const RnnPrecisionGuard precision;
  check_earlier_calls();
  return run_by_choice(Pass::backward, s, layer, stream, [&](const ClusterKernel* kernel, const char*& error) {
    return layer_bwd(kernel, s, dy, dh_n, layer, y, gates, need, stream, error);
  });
}

}  // namespace gru_ext
