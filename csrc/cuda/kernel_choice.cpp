#include "kernel_choice.h"

#include <c10/cuda/CUDAFunctions.h>
#include <c10/util/Exception.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <limits>
#include <map>
#include <mutex>
#include <sstream>
#include <type_traits>
#include <utility>

#include "autotune.h"
#include "products.h"
#include "wait_clock.h"

namespace gru_ext {
namespace {

constexpr at::ScalarType kClusterDtypes[] = {at::kBFloat16, at::kHalf, at::kFloat};

template <typename Kernels>
void append(std::vector<const ClusterKernel*>& pointers, const Kernels& kernels) {
  for (const ClusterKernel& kernel : kernels) pointers.push_back(&kernel);
}

template <typename scalar_t>
std::vector<const ClusterKernel*> kernels_of(Pass pass) {
  std::vector<const ClusterKernel*> pointers;
  if (pass == Pass::forward) {
    append(pointers, gru_cluster_fwd_kernels<scalar_t>());
    append(pointers, gru_streamed_fwd_kernels<scalar_t>());
    if constexpr (std::is_same_v<scalar_t, float>) append(pointers, gru_cluster_fwd_ieee_kernels());
  } else {
    append(pointers, gru_cluster_bwd_kernels<scalar_t>());
    append(pointers, gru_streamed_bwd_kernels<scalar_t>());
    if constexpr (std::is_same_v<scalar_t, float>) append(pointers, gru_cluster_bwd_ieee_kernels());
  }
  return pointers;
}

std::vector<const ClusterKernel*> all_kernels(Pass pass, at::ScalarType dtype) {
  switch (dtype) {
    case at::kBFloat16:
      return kernels_of<device::bfloat16>(pass);
    case at::kHalf:
      return kernels_of<device::float16>(pass);
    case at::kFloat:
      return kernels_of<float>(pass);
    default:
      return {};
  }
}

std::string words(const char* format, ...) __attribute__((format(printf, 1, 2)));
std::string words(const char* format, ...) {
  char buffer[256];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(buffer, sizeof buffer, format, arguments);
  va_end(arguments);
  return buffer;
}

// ---- What is known of each device, and what use_cuda_kernels has said; all of it behind one lock

struct KernelRecord {
  int resident = 0;  // clusters at a time, or blocks of a streamed kernel, or kNotCompiled
  bool tested = false;
  std::string fault;  // why it is not used any more; empty while it is
};

struct DeviceRecord {
  std::string name;
  double clock_rate;
  SharedWord error;
  std::map<const ClusterKernel*, KernelRecord> kernels;
};

std::mutex mutex;
std::map<int, DeviceRecord> devices;
std::string forced_forward = "auto", forced_backward = "auto";
std::atomic<double> seconds_of_wait{4};

DeviceRecord& record_of_device() {
  const int device = c10::cuda::current_device();
  const auto it = devices.find(device);
  return it != devices.end() ? it->second : devices[device] = {device_name(), clock_rate(), new_shared_word(), {}};
}

// Null where it cannot be had now: while a CUDA graph is captured no kernel is loaded, and loading takes memory.
const KernelRecord* record_of(DeviceRecord& device, const ClusterKernel& kernel, bool capturing) {
  const auto it = device.kernels.find(&kernel);
  if (it != device.kernels.end()) return &it->second;
  const int resident = capturing ? kNoMemoryNow : kernel.resident();
  return resident == kNoMemoryNow ? nullptr : &(device.kernels[&kernel] = {resident, false, {}});
}

// ---- The time of a call: time_model.h, and what is around the steps; assumed until measured

constexpr double kClusterSeconds = 10e-6;       // of a call: the launch, and weights on their way to registers
constexpr double kStepwiseStepSeconds = 10e-6;  // two launches
// Multiply-adds a second of torch's products.
constexpr double kProductRate16Bit = 250e12, kProductRateFloat = 25e12;
constexpr double kWeightBytes = 4e12;  // read a second, from memory or the L2 cache

// Clusters that a call needs.
int64_t clusters_of(const KernelQuery& query, const ClusterKernel& kernel) {
  return query.D * ((query.B + kernel.rows - 1) / kernel.rows);
}

double bytes_of_weights(const KernelQuery& query) {  // of R of one direction; W has as many if I = H
  return 3.0 * query.H * query.H * static_cast<double>(c10::elementSize(query.dtype));
}

// `resident`: clusters at a time. `shape`: of a streamed kernel.
double cluster_seconds(const KernelQuery& query, const ClusterKernel& kernel, const StreamedShape& shape, int resident,
                       double clock_rate) {
  const int64_t clusters = clusters_of(query, kernel);
  const double rounds = std::ceil(static_cast<double>(clusters) / resident);
  const bool is_float = query.dtype == at::kFloat;
  if (clock_rate <= 0) clock_rate = kAssumedClockRate;
  if (!kernel.shape) {
    return kClusterSeconds + rounds * query.T * step_cycles(kernel, query.pass, is_float) / clock_rate;
  }
  const int directions = static_cast<int>(std::min<int64_t>({query.D, clusters, resident}));
  const double of_step =
      streamed_step_seconds(kernel, shape, static_cast<double>(query.H), query.pass, is_float, directions, clock_rate);
  return kClusterSeconds + rounds * (directions * bytes_of_weights(query) / kLoadBytes + query.T * of_step);
}

double stepwise_seconds(const KernelQuery& query) {
  const double rate = query.dtype == at::kFloat || query.dtype == at::kDouble ? kProductRateFloat : kProductRate16Bit;
  const double product = std::max(3.0 * query.B * query.H * query.H / rate, bytes_of_weights(query) / kWeightBytes);
  return query.D * query.T * (kStepwiseStepSeconds + product);
}

// ---- The one-step kernel: T = 1, as in decoding. Every call reads the weights from memory once, W and R together; I
// is taken for H, as the choice does not know it. The one-step kernel reads them once for every tile of rows, from the
// L2 cache for all but one, and may have more to multiply than to read. Any other call spends kClusterSeconds, or
// kStepwiseStepSeconds, beside the reading.

constexpr int64_t kOneStepMostRows = 64;        // beyond, products are what tensor cores are for
constexpr int64_t kOneStepTileRows = 8;         // of the largest tile, gru_one_step.cuh
constexpr double kOneStepSeconds = 4e-6;        // the launch, and the latencies that nothing hides
constexpr double kOneStepMultiplyAdds = 15e12;  // a second on the FMA units, conversions included; float64: half

double weight_seconds(const KernelQuery& query) { return 2 * query.D * bytes_of_weights(query) / kWeightBytes; }

double one_step_seconds(const KernelQuery& query) {
  const int64_t tiles = (query.B + kOneStepTileRows - 1) / kOneStepTileRows;
  const double multiply_adds = 6.0 * query.D * query.H * query.H * std::min(query.B, kOneStepTileRows);
  const double rate = query.dtype == at::kDouble ? kOneStepMultiplyAdds / 2 : kOneStepMultiplyAdds;
  return kOneStepSeconds + tiles * std::max(weight_seconds(query), multiply_adds / rate);
}

double seconds_without_one_step(const KernelQuery& query) {
  return weight_seconds(query) + std::min(query.D * kStepwiseStepSeconds, kClusterSeconds);
}

bool one_step_can_serve(const KernelQuery& query) {
  return query.pass == Pass::forward && query.T == 1 && query.B <= kOneStepMostRows && !query.masked;
}

// ---- The choice

std::string family_of(const ClusterKernel& kernel) {
  const std::string name = name_of(kernel);
  return name.substr(0, name.find('_'));
}

bool is_asked_for(const ClusterKernel& kernel, const std::string& asked) {
  return asked == "auto" || name_of(kernel) == asked || family_of(kernel) == asked;
}

// Those of the kernels that are asked for that can serve a call, the fastest first; `why_not` tells why there are none:
// of several reasons, what went wrong with one of them.
std::vector<Candidate> candidates(const KernelQuery& query, const std::string& asked, std::string& why_not) {
  std::vector<const ClusterKernel*> all = all_kernels(query.pass, query.dtype);
  const bool is_ieee = query.dtype == at::kFloat && !rnn_allows_tf32();
  const auto is_for_others = [&](const ClusterKernel* kernel) {
    return (is_ieee && !kernel->ieee) || kernel->masks != query.masked;
  };
  all.erase(std::remove_if(all.begin(), all.end(), is_for_others), all.end());
  if (all.empty()) {
    why_not = query.dtype == at::kDouble ? "the cluster kernels have no float64"
                                         : "the cluster kernels have no zoneout and dropouts in IEEE float32";
    return {};
  }
  const auto is_other = [&](const ClusterKernel* kernel) { return !is_asked_for(*kernel, asked); };
  all.erase(std::remove_if(all.begin(), all.end(), is_other), all.end());
  if (all.empty()) {
    why_not = "of those for such a call none is that one";
    return {};
  }
  if (query.packed && query.capturing) {
    why_not = "a CUDA graph is captured, and the cluster kernels' copy of the lengths of a packed batch cannot be";
    return {};
  }
  const auto smaller = [](const ClusterKernel* a, const ClusterKernel* b) { return a->hidden < b->hidden; };
  why_not = words("the %s kernels hold R up to H = %d", query.pass == Pass::forward ? "forward" : "backward",
                  (*std::max_element(all.begin(), all.end(), smaller))->hidden);
  const std::lock_guard<std::mutex> lock(mutex);
  DeviceRecord& device = record_of_device();
  if (device.error.device == nullptr) {
    why_not = "there is no memory through which a cluster kernel could tell of an error";
    return {};
  }
  std::vector<Candidate> found;
  std::string fault;
  for (const ClusterKernel* kernel : all) {
    if (query.H > kernel->hidden) continue;
    constexpr int64_t kMost = std::numeric_limits<int>::max();
    const int64_t blocks = kernel->shape ? (query.H + kernel->units - 1) / kernel->units : kernel->blocks;
    if (query.T > kMost || clusters_of(query, *kernel) * blocks > kMost) {
      why_not = "the cluster kernels count steps and blocks in 32 bits";
      continue;
    }
    const KernelRecord* const record = record_of(device, *kernel, query.capturing);
    if (record != nullptr && !record->fault.empty()) {
      if (fault.empty()) fault = record->fault;
      continue;
    }
    if (query.capturing && (record == nullptr || !record->tested)) {
      why_not = "a CUDA graph is captured, and the cluster kernel has not been tested by a call before";
      continue;
    }
    if (record == nullptr) {
      why_not = "there is no memory left on this device to load the cluster kernel";
      continue;
    }
    const int resident = kernel->shape ? static_cast<int>(record->resident / blocks) : record->resident;
    const StreamedShape shape = kernel->shape ? kernel->shape(static_cast<int>(query.H)) : StreamedShape{};
    if (record->resident == kNotCompiled) {
      why_not = "no kernel of these was compiled for this device: they need sm_80, in clusters sm_90";
    } else if (resident == 0) {
      why_not = words("no cluster of the %lld blocks that H = %lld needs fits on this device",
                      static_cast<long long>(blocks), static_cast<long long>(query.H));
    } else if (kernel->shape && shape.shared_bytes == 0) {
      why_not = words("H = %lld needs more shared memory than this device has", static_cast<long long>(query.H));
    } else {
      const double seconds = cluster_seconds(query, *kernel, shape, resident, device.clock_rate);
      found.push_back({kernel, resident, record->tested, seconds});
    }
  }
  if (!fault.empty()) why_not = fault;
  std::stable_sort(found.begin(), found.end(),
                   [](const Candidate& a, const Candidate& b) { return a.seconds < b.seconds; });
  return found;
}

// ---- What was measured

// Of the candidates, those that are measured: so many of each family that the time model likes best, as it may be wrong
// about a family, but hardly about which of its kernels is far from the fastest.
constexpr int kMeasuredOfFamily = 2;

std::vector<Candidate> worth_measuring(const std::vector<Candidate>& candidates) {
  std::map<std::string, int> of_family;
  std::vector<Candidate> chosen;
  for (const Candidate& candidate : candidates) {
    if (of_family[family_of(*candidate.kernel)]++ < kMeasuredOfFamily) chosen.push_back(candidate);
  }
  return chosen;
}

// What is measured once: calls on such a device, by such a build, of such a size. Steps are rounded up to a power of
// two, and rows beyond 8 to a multiple of 8, so that batches of many lengths are of few kinds.
std::string kind_of(const KernelQuery& query) {
  std::string device;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    device = record_of_device().name;
  }
  int64_t steps = 1;
  while (steps < query.T) steps *= 2;
  const int64_t rows = query.B <= 8 ? query.B : (query.B + 7) / 8 * 8;
  std::ostringstream kind;
  kind << "gru_ext " GRU_EXT_VERSION " for torch " GRU_EXT_TORCH_VERSION " by " GRU_EXT_CUDA_BUILD ", " << device
       << ", " << (query.pass == Pass::forward ? "forward " : "backward ") << query.dtype;
  if (query.dtype == at::kFloat && rnn_allows_tf32()) kind << (products_allow_tf32() ? " tf32" : " tf32 of R h");
  kind << " T<=" << steps << " B<=" << rows << " H=" << query.H << " D=" << query.D;
  if (query.packed) kind << " packed";
  if (query.masked) kind << " masked";
  if (!query.keeps_gates) kind << " without gates";
  return kind.str();
}

// Of the candidates those that were measured to be faster than the stepwise kernels; or the one-step kernel, where it
// can serve and none that still serves was faster.
void choose_measured(const Timings& timings, bool one_step, KernelChoice& choice) {
  std::vector<Candidate> faster;
  for (const Timing& timing : timings) {
    choice.measured += words("%s%s %.3g ms", choice.measured.empty() ? "measured " : ", ", timing.kernel.c_str(),
                             1e3 * timing.seconds);
  }
  for (const Timing& timing : timings) {
    if (timing.kernel == "stepwise" || !std::isfinite(timing.seconds)) break;
    if (timing.kernel == "one_step") choice.one_step = one_step && faster.empty();
    const auto it = std::find_if(choice.clusters.begin(), choice.clusters.end(),
                                 [&](const Candidate& c) { return name_of(*c.kernel) == timing.kernel; });
    if (it != choice.clusters.end()) faster.push_back(*it);
  }
  choice.clusters = std::move(faster);
  if (choice.clusters.empty()) choice.why_stepwise = choice.measured;
}

// Of the candidates those that the time model says are faster than the stepwise kernels.
void choose_modelled(const KernelQuery& query, KernelChoice& choice) {
  auto& clusters = choice.clusters;
  if (clusters.empty()) return;
  const double stepwise = stepwise_seconds(query);
  if (clusters[0].seconds > stepwise) {
    choice.why_stepwise = words("by the time model %.3g ms, %s %.3g ms", 1e3 * stepwise,
                                name_of(*clusters[0].kernel).c_str(), 1e3 * clusters[0].seconds);
  }
  const auto slower = [&](const Candidate& c) { return c.seconds > stepwise; };
  clusters.erase(std::find_if(clusters.begin(), clusters.end(), slower), clusters.end());
}

}  // namespace

KernelChoice choose_kernels(const KernelQuery& query) {
  std::string asked;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    asked = query.pass == Pass::forward ? forced_forward : forced_backward;
  }
  KernelChoice choice;
  if (asked == "stepwise") {
    choice.why_stepwise = "gru_ext.use_cuda_kernels asks for it";
    return choice;
  }
  const bool one_step = one_step_can_serve(query), measures = asked == "auto" && autotunes();
  if (asked == "one_step") {
    TORCH_CHECK(one_step, "gru: gru_ext.use_cuda_kernels asks for one_step, which serves calls with T = 1 and B up to ",
                kOneStepMostRows, ", and none with T = ", query.T, ", B = ", query.B,
                query.masked ? " with zoneout or dropouts" : "");
    choice.one_step = true;
    return choice;
  }
  const bool one_step_by_model =
      asked == "auto" && one_step && one_step_seconds(query) < seconds_without_one_step(query);
  if (one_step_by_model && !measures) {  // which is told at once: such calls are short
    choice.one_step = true;
    return choice;
  }
  choice.forced = asked != "auto";
  choice.clusters = candidates(query, asked, choice.why_stepwise);
  auto& clusters = choice.clusters;
  if (choice.forced) {
    TORCH_CHECK(!clusters.empty(), "gru: gru_ext.use_cuda_kernels asks for ", asked,
                ", which cannot serve this call with H = ", query.H, ": ", choice.why_stepwise);
  } else if (!clusters.empty() || one_step) {
    Timings timings;
    if (measures) {
      std::string kind = kind_of(query);
      timings = timings_of(kind);
      if (timings.empty() && !query.capturing) {
        choice.kind = std::move(kind);
        choice.to_measure = worth_measuring(clusters);
        choice.measure_one_step = one_step;
      }
    }
    if (timings.empty() || !std::isfinite(timings[0].seconds)) {
      choice.one_step = one_step_by_model;
      choose_modelled(query, choice);
    } else {
      choose_measured(timings, one_step, choice);
    }
  }
  return choice;
}

void check_stepwise_may_serve(Pass pass) {
  const std::lock_guard<std::mutex> lock(mutex);
  const std::string& asked = pass == Pass::forward ? forced_forward : forced_backward;
  TORCH_CHECK(asked == "auto" || asked == "stepwise", "gru: gru_ext.use_cuda_kernels asks for ", asked,
              ", but layer_norm and reset_after=False are computed by the stepwise kernels alone");
}

std::string name_of(const ClusterKernel& kernel) {
  if (kernel.shape) return words("streamed_U%d_rows%d%s", kernel.units, kernel.rows, kernel.masks ? "_masked" : "");
  return words("%s_H%d_C%d_rows%d%s", kernel.packet_bytes > 0 ? "group" : "cluster", kernel.hidden, kernel.blocks,
               kernel.rows, kernel.ieee ? "_ieee" : "");
}

void mark_tested(const ClusterKernel& kernel) {
  const std::lock_guard<std::mutex> lock(mutex);
  record_of_device().kernels[&kernel].tested = true;
}

void rule_out(const ClusterKernel& kernel, const std::string& why) {
  const std::lock_guard<std::mutex> lock(mutex);
  record_of_device().kernels[&kernel].fault = why;
}

int* error_word() {
  const std::lock_guard<std::mutex> lock(mutex);
  return record_of_device().error.device;
}

bool take_error() {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto it = devices.find(c10::cuda::current_device());
  if (it == devices.end() || it->second.error.host == nullptr || *it->second.error.host == 0) return false;
  *it->second.error.host = 0;
  return true;
}

void check_earlier_calls() {
  if (!take_error()) return;
  for (const Pass pass : {Pass::forward, Pass::backward}) {
    for (const at::ScalarType dtype : kClusterDtypes) {
      for (const ClusterKernel* kernel : all_kernels(pass, dtype)) {
        rule_out(*kernel, "a cluster kernel waited too long in an earlier call on this device");
      }
    }
  }
  TORCH_CHECK(false, "gru: a cluster kernel of an earlier call waited more than ", seconds_of_wait.load(),
              " seconds for other blocks of its cluster, so that the results of the calls since then are wrong. The"
              " stepwise kernels serve on this device from now on");
}

uint32_t wait_limit() { return static_cast<uint32_t>(1e9 * seconds_of_wait / device::kWaitTick); }

double set_cuda_wait_limit(double seconds) {
  TORCH_CHECK_VALUE(seconds >= 1e-3 && seconds <= 3600,
                    "set_cuda_wait_limit: expected seconds from 0.001 to 3600, got ", seconds);
  return seconds_of_wait.exchange(seconds);
}

std::tuple<std::string, std::string> cuda_kernel(at::ScalarType dtype, int64_t T, int64_t B, int64_t H,
                                                 bool bidirectional, bool packed, bool keeps_gates, bool backward,
                                                 bool masked) {
  const KernelQuery query{backward ? Pass::backward : Pass::forward,
                          dtype,
                          T,
                          B,
                          H,
                          bidirectional ? 2 : 1,
                          packed,
                          masked,
                          keeps_gates,
                          /*capturing=*/false};
  const KernelChoice choice = choose_kernels(query);
  const std::string to_measure = choice.kind.empty() ? "" : "; its first call measures the candidates";
  if (choice.one_step) {
    const std::string model =
        words("one launch reads all weights once: by the time model, with I = H, %.3g ms, others %.3g ms",
              1e3 * one_step_seconds(query), 1e3 * seconds_without_one_step(query));
    return {"one_step", (choice.measured.empty() ? model : choice.measured) + to_measure};
  }
  if (choice.clusters.empty()) return {"stepwise", choice.why_stepwise + to_measure};
  const Candidate& best = choice.clusters[0];
  std::string reason = choice.measured;
  if (reason.empty()) {
    reason = words("by the time model %.3g ms, stepwise %.3g ms", 1e3 * best.seconds, 1e3 * stepwise_seconds(query));
  }
  reason +=
      words("; %lld clusters, %d at a time", static_cast<long long>(clusters_of(query, *best.kernel)), best.resident);
  if (!best.tested) reason += "; its first call tests it against the stepwise kernels";
  return {name_of(*best.kernel), reason + to_measure};
}

std::vector<std::string> cuda_kernel_names(at::ScalarType dtype, bool backward) {
  std::vector<std::string> names;
  for (const ClusterKernel* kernel : all_kernels(backward ? Pass::backward : Pass::forward, dtype)) {
    names.push_back(name_of(*kernel));
  }
  return names;
}

std::tuple<std::string, std::string> use_cuda_kernels(std::string forward, std::string backward) {
  const auto check = [](Pass pass, const std::string& name) {
    std::vector<std::string> known = {"auto", "stepwise", "cluster", "group", "streamed"};
    if (pass == Pass::forward) known.push_back("one_step");
    for (const at::ScalarType dtype : kClusterDtypes) {
      for (const std::string& other : cuda_kernel_names(dtype, pass == Pass::backward)) {
        if (std::find(known.begin(), known.end(), other) == known.end()) known.push_back(other);
      }
    }
    TORCH_CHECK_VALUE(std::find(known.begin(), known.end(), name) != known.end(), "use_cuda_kernels: expected ",
                      pass == Pass::forward ? "forward" : "backward", " to be one of ", c10::Join(", ", known),
                      ", got '", name, "'");
  };
  check(Pass::forward, forward);
  check(Pass::backward, backward);
  const std::lock_guard<std::mutex> lock(mutex);
  return {std::exchange(forced_forward, std::move(forward)), std::exchange(forced_backward, std::move(backward))};
}

}  // namespace gru_ext
