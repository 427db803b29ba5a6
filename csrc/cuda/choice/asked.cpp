#include "cuda/choice/asked.h"

#include <c10/util/Exception.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <mutex>
#include <utility>

#include "cuda/choice/choice.h"
#include "cuda/choice/records.h"
#include "cuda/stepwise/stepwise.h"

namespace gru_ext {
namespace {

std::mutex asked_mutex;
std::string asked_forward = "auto", asked_backward = "auto";

void append_new(std::vector<std::string>& names, const std::string& name) {
  if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
}

// All that may be asked for in a pass: "auto", the families that have it, and their kernels.
std::vector<std::string> known_names(Pass pass) {
  constexpr at::ScalarType kDtypes[] = {at::kBFloat16, at::kHalf, at::kFloat, at::kDouble};
  std::vector<std::string> known = {"auto"}, of_kernels;
  for (const Family* family : families()) {
    for (const at::ScalarType dtype : kDtypes) {
      for (const Kernel* kernel : family->kernels(pass, dtype)) {
        append_new(known, family->name());
        append_new(of_kernels, kernel->name());
      }
    }
  }
  for (const std::string& name : of_kernels) append_new(known, name);
  return known;
}

void check_name(Pass pass, const std::string& name) {
  const std::vector<std::string> known = known_names(pass);
  TORCH_CHECK_VALUE(std::find(known.begin(), known.end(), name) != known.end(), "use_cuda_kernels: expected ",
                    pass == Pass::forward ? "forward" : "backward", " to be one of ", c10::Join(", ", known), ", got '",
                    name, "'");
}

}  // namespace

std::string asked_for(Pass pass) {
  const std::lock_guard<std::mutex> lock(asked_mutex);
  return pass == Pass::forward ? asked_forward : asked_backward;
}

void check_stepwise_may_serve(Pass pass) {
  const std::string asked = asked_for(pass);
  TORCH_CHECK(asked == "auto" || asked == stepwise_kernel().name(), "gru: gru_ext.use_cuda_kernels asks for ", asked,
              ", but layer_norm and reset_after=False are computed by the stepwise kernels alone");
}

std::tuple<std::string, std::string> cuda_kernel(at::ScalarType dtype, int64_t T, int64_t B, int64_t H,
                                                 bool bidirectional, bool packed, bool keeps_gates, bool backward,
                                                 bool masked, int64_t members) {
  const Pass pass = backward ? Pass::backward : Pass::forward;
  const int64_t D = bidirectional ? 2 : 1;
  const KernelQuery query{pass, dtype, T, B, H, D, packed, masked, keeps_gates, /*capturing=*/false, members};
  const KernelChoice choice = choose_kernels(query);
  const std::string to_measure = choice.kind.empty() ? "" : "; its first call measures the candidates";
  const Candidate& best = choice.candidates[0];
  if (best.kernel == &stepwise_kernel()) return {best.kernel->name(), choice.why_stepwise + to_measure};
  std::string reason = choice.measured.empty() ? best.kernel->why(query, best) : choice.measured;
  reason += best.kernel->how(query, best);
  if (best.kernel->is_tested_first() && !record_of(*best.kernel).tested) {
    reason += "; its first call tests it against the stepwise kernels";
  }
  return {best.kernel->name(), reason + to_measure};
}

std::vector<std::string> cuda_kernel_names(at::ScalarType dtype, bool backward) {
  std::vector<std::string> names;
  for (const Family* family : families()) {
    for (const Kernel* kernel : family->kernels(backward ? Pass::backward : Pass::forward, dtype)) {
      if (kernel->name() != family->name()) names.push_back(kernel->name());
    }
  }
  return names;
}

std::tuple<std::string, std::string> use_cuda_kernels(std::string forward, std::string backward) {
  check_name(Pass::forward, forward);
  check_name(Pass::backward, backward);
  const std::lock_guard<std::mutex> lock(asked_mutex);
  return {std::exchange(asked_forward, std::move(forward)), std::exchange(asked_backward, std::move(backward))};
}

}  // namespace gru_ext
