#include "cuda/choice/choice.h"

#include <c10/cuda/CUDAFunctions.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <sstream>

#include "cuda/choice/asked.h"
#include "cuda/choice/autotune.h"
#include "cuda/products.h"
#include "cuda/stepwise/stepwise.h"

namespace gru_ext {
namespace {

Candidate stepwise_candidate(const KernelQuery& query) {
  WhyNot unused;
  return stepwise_family().candidates(query, "stepwise", unused)[0];
}

// Those of all families but the stepwise one that are asked for and can serve, the fastest first.
std::vector<Candidate> candidates_of_families(const KernelQuery& query, const std::string& asked, WhyNot& why_not) {
  std::vector<Candidate> found;
  for (const Family* family : families()) {
    if (family == &stepwise_family()) continue;
    const std::vector<Candidate> of_family = family->candidates(query, asked, why_not);
    found.insert(found.end(), of_family.begin(), of_family.end());
  }
  std::stable_sort(found.begin(), found.end(),
                   [](const Candidate& a, const Candidate& b) { return a.seconds < b.seconds; });
  return found;
}

// Those of a family that needs no others to be asked, as calls that it serves are short.
std::vector<Candidate> leading_candidates(const KernelQuery& query) {
  WhyNot unused;
  for (const Family* family : families()) {
    if (!family->leads()) continue;
    std::vector<Candidate> found = family->candidates(query, "auto", unused);
    if (!found.empty() && std::isfinite(found[0].seconds)) return found;
  }
  return {};
}

// ---- What was measured

// Of the candidates, those that are measured: so many of each family that the time model likes best, as it may be wrong
// about a family, but hardly about which of its kernels is far from the fastest.
constexpr int kMeasuredOfFamily = 2;

std::vector<Candidate> worth_measuring(const KernelQuery& query, const std::vector<Candidate>& candidates) {
  std::map<const Family*, int> of_family;
  std::vector<Candidate> chosen;
  for (const Candidate& candidate : candidates) {
    if (of_family[&candidate.kernel->family()]++ < kMeasuredOfFamily) chosen.push_back(candidate);
  }
  chosen.push_back(stepwise_candidate(query));
  return chosen;
}

std::string name_of_device() {
  static std::mutex mutex;
  static std::map<int, std::string> names;
  const std::lock_guard<std::mutex> lock(mutex);
  std::string& name = names[c10::cuda::current_device()];
  if (name.empty()) name = device_name();
  return name;
}

// What is measured once: calls on such a device, by such a build, of such a size. Steps are rounded up to a power of
// two, and rows beyond 8 to a multiple of 8, so that batches of many lengths are of few kinds.
std::string kind_of(const KernelQuery& query) {
  int64_t steps = 1;
  while (steps < query.T) steps *= 2;
  const int64_t rows = query.B <= 8 ? query.B : (query.B + 7) / 8 * 8;
  std::ostringstream kind;
  kind << "gru_ext " GRU_EXT_VERSION " for torch " GRU_EXT_TORCH_VERSION " by " GRU_EXT_CUDA_BUILD ", "
       << name_of_device() << ", " << (query.pass == Pass::forward ? "forward " : "backward ") << query.dtype;
  if (query.dtype == at::kFloat && rnn_allows_tf32()) kind << (products_allow_tf32() ? " tf32" : " tf32 of R h");
  kind << " T<=" << steps << " B<=" << rows << " H=" << query.H << " D=" << query.D;
  if (query.members > 1) kind << " E=" << query.members;
  if (query.packed) kind << " packed";
  if (query.masked) kind << " masked";
  if (!query.keeps_gates) kind << " without gates";
  return kind.str();
}

// Of the candidates those that were measured to be faster than the stepwise kernels, in the order of their times.
void choose_measured(const Timings& timings, KernelChoice& choice) {
  std::vector<Candidate> faster;
  for (const Timing& timing : timings) {
    choice.measured += words("%s%s %.3g ms", choice.measured.empty() ? "measured " : ", ", timing.kernel.c_str(),
                             1e3 * timing.seconds);
  }
  for (const Timing& timing : timings) {
    if (timing.kernel == stepwise_kernel().name() || !std::isfinite(timing.seconds)) break;
    const auto it = std::find_if(choice.candidates.begin(), choice.candidates.end(),
                                 [&](const Candidate& c) { return c.kernel->name() == timing.kernel; });
    if (it != choice.candidates.end()) faster.push_back(*it);
  }
  choice.candidates = std::move(faster);
  if (choice.candidates.empty()) choice.why_stepwise = choice.measured;
}

// Of the candidates those that the time model says are faster than the stepwise kernels.
void choose_modelled(const KernelQuery& query, KernelChoice& choice) {
  auto& candidates = choice.candidates;
  const double stepwise = stepwise_seconds(query);
  if (!candidates.empty() && std::isfinite(candidates[0].seconds) && candidates[0].seconds > stepwise) {
    choice.why_stepwise = words("by the time model %.3g ms, %s %.3g ms", 1e3 * stepwise,
                                candidates[0].kernel->name().c_str(), 1e3 * candidates[0].seconds);
  }
  const auto slower = [&](const Candidate& c) { return c.seconds > stepwise; };
  candidates.erase(std::find_if(candidates.begin(), candidates.end(), slower), candidates.end());
}

void check_one_serves(const KernelQuery& query, const std::string& asked, const std::vector<Candidate>& candidates,
                      const WhyNot& why_not) {
  if (!candidates.empty()) return;
  // A kernel's name begins with its family's, whichever dtype it is of.
  const auto asked_one = std::find_if(families().begin(), families().end(),
                                      [&](const Family* family) { return asked.rfind(family->name(), 0) == 0; });
  TORCH_CHECK(false, "gru: gru_ext.use_cuda_kernels asks for ", asked, ", ", (*asked_one)->refusal(query, why_not));
}

}  // namespace

KernelChoice choose_kernels(const KernelQuery& query) {
  const std::string asked = asked_for(query.pass);
  KernelChoice choice;
  if (asked == stepwise_kernel().name()) {
    choice.candidates = {stepwise_candidate(query)};
    choice.why_stepwise = "gru_ext.use_cuda_kernels asks for it";
    return choice;
  }
  choice.forced = asked != "auto";
  const bool measures = !choice.forced && autotunes();
  if (!choice.forced && !measures) {
    choice.candidates = leading_candidates(query);
    if (!choice.candidates.empty()) return choice;
  }
  WhyNot why_not;
  choice.candidates = candidates_of_families(query, asked, why_not);
  if (choice.forced) {
    check_one_serves(query, asked, choice.candidates, why_not);
    return choice;
  }
  choice.why_stepwise = why_not.words();
  Timings timings;
  if (measures && !choice.candidates.empty()) {
    std::string kind = kind_of(query);
    timings = timings_of(kind);
    if (timings.empty() && !query.capturing) {
      choice.kind = std::move(kind);
      choice.to_measure = worth_measuring(query, choice.candidates);
    }
  }
  if (timings.empty() || !std::isfinite(timings[0].seconds)) {
    choose_modelled(query, choice);
  } else {
    choose_measured(timings, choice);
  }
  choice.candidates.push_back(stepwise_candidate(query));
  return choice;
}

}  // namespace gru_ext
