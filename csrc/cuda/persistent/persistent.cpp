#include "cuda/persistent/persistent.h"

#include <algorithm>
#include <limits>

#include "cuda/choice/records.h"
#include "cuda/persistent/device_facts.h"
#include "cuda/products.h"

namespace gru_ext {
namespace {

// Whether a kernel computes such calls, whatever their size.
bool is_for(const PersistentKernel& kernel, const KernelQuery& query) {
  const bool is_ieee = query.dtype == at::kFloat && !rnn_allows_tf32();
  return (!is_ieee || kernel.entry().ieee) && kernel.is_for_masks() == query.masked;
}

}  // namespace

const PersistentFamily::Kernels& PersistentFamily::of(Pass pass, at::ScalarType dtype) const {
  static const Kernels none;
  const auto it = kernels_.find({pass, dtype});
  return it != kernels_.end() ? it->second : none;
}

std::vector<const Kernel*> PersistentFamily::kernels(Pass pass, at::ScalarType dtype) const {
  std::vector<const Kernel*> pointers;
  for (const auto& kernel : of(pass, dtype)) pointers.push_back(kernel.get());
  return pointers;
}

std::vector<Candidate> PersistentFamily::candidates(const KernelQuery& query, const std::string& asked,
                                                    WhyNot& why_not) const {
  const auto none = [&](const char* why) {
    why_not.say(why);
    return std::vector<Candidate>();
  };
  if (query.dtype == at::kDouble) return none("the cluster kernels have no float64");
  if (query.masked && query.dtype == at::kFloat && !rnn_allows_tf32()) {
    return none("the cluster kernels have no zoneout and dropouts in IEEE float32");
  }
  std::vector<const PersistentKernel*> all;
  for (const auto& kernel : of(query.pass, query.dtype)) {
    if (is_for(*kernel, query) && is_asked_for(*kernel, asked)) all.push_back(kernel.get());
  }
  if (all.empty()) {
    why_not.say_if_nothing_else("of those for such a call none is that one");
    return {};
  }
  if (query.packed && query.capturing) {
    return none("a CUDA graph is captured, and the cluster kernels' copy of the lengths of a packed batch cannot be");
  }
  int64_t most_hidden = 0;
  for (const PersistentKernel* kernel : all) most_hidden = std::max(most_hidden, kernel->most_hidden());
  why_not.say(words("the %s kernels hold R up to H = %lld", query.pass == Pass::forward ? "forward" : "backward",
                    static_cast<long long>(most_hidden)));
  LockedDevice device;
  if (!device.facts.fault.empty()) {
    why_not.say_fault(device.facts.fault);
    return {};
  }
  if (device.facts.error.device == nullptr)
    return none("there is no memory through which a cluster kernel could tell of an error");
  std::vector<Candidate> found;
  for (const PersistentKernel* kernel : all) {
    if (query.H > kernel->most_hidden()) continue;
    constexpr int64_t kMost = std::numeric_limits<int>::max();
    const int64_t blocks = kernel->blocks(query.H);
    const bool counts_steps_of_members = query.members > 1 && kernel->takes_members();
    if (query.T > kMost || query.B > kMost - kernel->entry().rows || kernel->clusters(query) * blocks > kMost ||
        (counts_steps_of_members && query.members * query.T > kMost / query.B)) {
      why_not.say("the cluster kernels count steps, rows and blocks in 32 bits");
      continue;
    }
    const KernelRecord record = record_of(*kernel);
    if (!record.fault.empty()) {
      why_not.say_fault(record.fault);
      continue;
    }
    const std::optional<int> resident = device.resident(kernel->entry(), query.capturing);
    if (query.capturing && (!resident.has_value() || !record.tested)) {
      why_not.say("a CUDA graph is captured, and the cluster kernel has not been tested by a call before");
      continue;
    }
    if (!resident.has_value()) {
      why_not.say("there is no memory left on this device to load the cluster kernel");
      continue;
    }
    const int at_a_time = *resident == kNotCompiled ? 0 : kernel->at_a_time(*resident, query.H);
    if (*resident == kNotCompiled) {
      why_not.say("no kernel of these was compiled for this device: they need sm_80, in clusters sm_90");
    } else if (at_a_time == 0) {
      why_not.say(words("no cluster of the %lld blocks that H = %lld needs fits on this device",
                        static_cast<long long>(blocks), static_cast<long long>(query.H)));
    } else if (!kernel->has_shared_memory(query.H)) {
      why_not.say(words("H = %lld needs more shared memory than this device has", static_cast<long long>(query.H)));
    } else {
      KernelQuery launch = query;
      if (!kernel->takes_members()) launch.members = 1;
      const double seconds = kernel->seconds(launch, at_a_time, device.facts.clock_rate);
      found.push_back({kernel, static_cast<double>(query.members / launch.members) * seconds, at_a_time});
    }
  }
  return found;
}

void PersistentFamily::check_earlier_calls() const { check_waits(); }

}  // namespace gru_ext
