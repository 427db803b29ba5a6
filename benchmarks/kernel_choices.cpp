// Which kernels the time model chooses, with other constants than those in the source: the choice of csrc/cuda as it
// is, on a device that is described by the arguments. gpu_constants.py builds it, of a copy of csrc in which the
// constants can be set; what would run a kernel is not linked, as nothing is run.
//
//     kernel_choices kernels                      prints what the model knows of each cluster and group kernel: name,
//                                                 pass, dtype, H, C, rows, pairs of a thread, overflow bytes, packet
//                                                 bytes
//     kernel_choices steps NAME=VALUE ...         prints for each persistent kernel name, pass, dtype, and the cycles of a
//                                                 step at its largest H, if it is streamed at H = 1024
//     kernel_choices choices NAME=VALUE ...       prints a line for each call: dtype, pass, T, B, H, name, seconds
//     kernel_choices candidates NAME=VALUE ...    prints a line for each call: dtype, pass, T, B, H, D, then
//                                                 name=seconds of each kernel that can serve it
//     kernel_choices call DTYPE PASS T B H MEMBERS KERNEL NAME=VALUE ...
//                                                 prints, of the fastest kernel for the call that KERNEL allows (auto, a
//                                                 family, or a kernel): name, clusters or groups, how many at a time, in
//                                                 how many rounds, seconds, of them those that no step takes; nothing
//                                                 where none is persistent
//
// NAME: a constant; or multiprocessors, shared_bytes, clock_rate, most_cluster: blocks of the largest cluster; or
// resident_C: clusters of C blocks at a time.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <vector>

#include "cuda/choice/autotune.h"
#include "cuda/choice/time_model.h"
#include "cuda/persistent/cluster/cluster_bwd.cuh"
#include "cuda/persistent/cluster/cluster_fwd.cuh"
#include "cuda/persistent/cluster/configs.h"
#include "cuda/persistent/cluster/entries.h"
#include "cuda/persistent/group/configs.h"
#include "cuda/persistent/group/entries.h"
#include "cuda/persistent/group/group_bwd.cuh"
#include "cuda/persistent/group/group_fwd.cuh"
#include "cuda/persistent/held_entry.h"
#include "cuda/persistent/streamed/configs.h"
#include "cuda/persistent/streamed/entries.h"
#include "cuda/persistent/streamed/streamed_bwd.cuh"
#include "cuda/persistent/streamed/streamed_fwd.cuh"
#include "cuda/products.h"
#include "device.h"

namespace gru_ext {
namespace {

// Of an H200, unless the arguments say otherwise.
double multiprocessors = 132, shared_bytes = 227 << 10, device_clock_rate = 0, most_cluster = 16;
bool tf32_allowed = true;
std::map<int, int> measured_resident;  // by blocks of a cluster

const std::map<std::string, double*> kSettings = {
#include "constants.inc"
    {"multiprocessors", &multiprocessors},
    {"shared_bytes", &shared_bytes},
    {"clock_rate", &device_clock_rate},
    {"most_cluster", &most_cluster},
};

// A block of these kernels has a multiprocessor of its own.
template <typename Traits, bool kCluster>
int resident() {
  if (Traits::kSharedBytes > shared_bytes || (kCluster && Traits::kC > std::max(1.0, most_cluster))) return 0;
  const auto it = measured_resident.find(Traits::kC);
  return kCluster && it != measured_resident.end() ? it->second : static_cast<int>(multiprocessors) / Traits::kC;
}

template <typename Traits>
HeldEntry cluster_entry() {
  return held_entry<Traits>(/*packet_bytes=*/0, resident<Traits, /*kCluster=*/true>);
}
template <typename Traits>
HeldEntry group_entry() {
  return held_entry<Traits>(Traits::kPacketBytes, resident<Traits, /*kCluster=*/false>);
}
template <typename Traits>
StreamedEntry streamed_entry() {
  return {{/*ieee=*/false, Traits::kRows, [] { return static_cast<int>(multiprocessors); }},
          Traits::kUnits,
          [](int H) { return device::streamed_shape<Traits>(H, static_cast<int>(shared_bytes)); },
          /*masks=*/false};
}

}  // namespace

// ---- What the choice asks of the rest of the backend

namespace emulator {
EmulatedDevice device;
}
std::string device_name() { return "described"; }
double clock_rate() { return device_clock_rate; }
SharedWord new_shared_word() {
  static int word = 0;
  return {&word, &word};
}
bool rnn_allows_tf32() { return tf32_allowed; }
bool products_allow_tf32() { return false; }
bool autotunes() { return false; }
Timings timings_of(const std::string&) { return {}; }

#define CLUSTER_FWD(...) {cluster_entry<device::GruClusterFwdTraits<Name, __VA_ARGS__>>(), nullptr},
#define CLUSTER_BWD(...) {cluster_entry<device::GruClusterBwdTraits<Name, __VA_ARGS__>>(), nullptr},
#define GROUP_FWD(...) \
  {group_entry<device::GruClusterFwdTraits<Name, __VA_ARGS__, device::Exchange::packets>>(), nullptr},
#define GROUP_BWD(...) {group_entry<device::GruGroupBwdTraits<Name, __VA_ARGS__>>(), nullptr},
#define STREAMED_FWD(...) {streamed_entry<device::GruStreamedFwdTraits<Name, __VA_ARGS__>>(), nullptr},
#define STREAMED_BWD(...) {streamed_entry<device::GruStreamedBwdTraits<Name, __VA_ARGS__>>(), nullptr},

#define ENTRIES_OF(T, name, Entries, ...) \
  template <>                             \
  GRU_ENTRIES(Entries<T>, name<T>, __VA_ARGS__)
#define ENTRIES_OF_TYPE(T, kind)                                                                 \
  ENTRIES_OF(T, cluster_fwd_entries, HeldFwdEntries, GRU_CLUSTER_FWD_##kind(CLUSTER_FWD))        \
  ENTRIES_OF(T, cluster_bwd_entries, HeldBwdEntries, GRU_CLUSTER_BWD_##kind(CLUSTER_BWD))        \
  ENTRIES_OF(T, group_fwd_entries, HeldFwdEntries, GRU_GROUP_FWD_##kind(GROUP_FWD))              \
  ENTRIES_OF(T, group_bwd_entries, HeldBwdEntries, GRU_GROUP_BWD_##kind(GROUP_BWD))              \
  ENTRIES_OF(T, streamed_fwd_entries, StreamedFwdEntries, GRU_STREAMED_FWD_##kind(STREAMED_FWD)) \
  ENTRIES_OF(T, streamed_bwd_entries, StreamedBwdEntries, GRU_STREAMED_BWD_##kind(STREAMED_BWD))

#define Name device::bfloat16
ENTRIES_OF_TYPE(device::bfloat16, 16BIT)
#undef Name
#define Name float
ENTRIES_OF_TYPE(float, TF32)
#undef Name
#define Name device::ieee
GRU_ENTRIES(HeldFwdEntries<float>, cluster_fwd_ieee_entries, GRU_CLUSTER_FWD_IEEE(CLUSTER_FWD))
GRU_ENTRIES(HeldBwdEntries<float>, cluster_bwd_ieee_entries, GRU_CLUSTER_BWD_IEEE(CLUSTER_BWD))
GRU_ENTRIES(HeldFwdEntries<float>, group_fwd_ieee_entries, GRU_GROUP_FWD_IEEE(GROUP_FWD))
GRU_ENTRIES(HeldBwdEntries<float>, group_bwd_ieee_entries, GRU_GROUP_BWD_IEEE(GROUP_BWD))
#undef Name

// The other half has the same kernels.
ENTRIES_OF(device::float16, cluster_fwd_entries, HeldFwdEntries, )
ENTRIES_OF(device::float16, cluster_bwd_entries, HeldBwdEntries, )
ENTRIES_OF(device::float16, group_fwd_entries, HeldFwdEntries, )
ENTRIES_OF(device::float16, group_bwd_entries, HeldBwdEntries, )
ENTRIES_OF(device::float16, streamed_fwd_entries, StreamedFwdEntries, )
ENTRIES_OF(device::float16, streamed_bwd_entries, StreamedBwdEntries, )

}  // namespace gru_ext

// The choice itself: one unit, so that there is one of each constant.
#include "cuda/choice/asked.cpp"
#include "cuda/choice/choice.cpp"
#include "cuda/choice/families.cpp"
#include "cuda/choice/family.cpp"
#include "cuda/choice/records.cpp"
#include "cuda/one_step/one_step.cpp"
#include "cuda/persistent/cluster/cluster.cpp"
#include "cuda/persistent/persistent.cpp"
#include "cuda/persistent/group/group.cpp"
#include "cuda/persistent/kernel.cpp"
#include "cuda/persistent/device_facts.cpp"
#include "cuda/persistent/streamed/streamed.cpp"
#include "cuda/stepwise/stepwise.cpp"

namespace gru_ext {

// ---- The program

namespace {

const char* word(Pass pass) { return pass == Pass::forward ? "forward" : "backward"; }

// `entries`: those of `family` for one pass and dtype, in the order of its kernels.
template <typename Entries>
void print_kernels(const Family& family, Pass pass, at::ScalarType dtype, size_t first, const Entries& entries) {
  const std::vector<const Kernel*> kernels = family.kernels(pass, dtype);
  for (size_t i = 0; i < entries.size(); ++i) {
    const auto& kernel = entries[i];
    std::printf("%s %s %s %d %d %d %d %d %d\n", kernels[first + i]->name().c_str(), word(pass),
                dtype == at::kBFloat16 ? "bf16"
                : kernel.ieee          ? "fp32"
                                       : "tf32",
                kernel.hidden, kernel.blocks, kernel.rows, kernel.pairs, kernel.overflow_bytes, kernel.packet_bytes);
  }
}

void print_kernels() {
  using device::bfloat16;
  const Family &cluster = cluster_family(), &group = group_family();
  print_kernels(cluster, Pass::forward, at::kBFloat16, 0, cluster_fwd_entries<bfloat16>());
  print_kernels(group, Pass::forward, at::kBFloat16, 0, group_fwd_entries<bfloat16>());
  print_kernels(cluster, Pass::backward, at::kBFloat16, 0, cluster_bwd_entries<bfloat16>());
  print_kernels(group, Pass::backward, at::kBFloat16, 0, group_bwd_entries<bfloat16>());
  print_kernels(cluster, Pass::forward, at::kFloat, 0, cluster_fwd_entries<float>());
  print_kernels(group, Pass::forward, at::kFloat, 0, group_fwd_entries<float>());
  print_kernels(cluster, Pass::backward, at::kFloat, 0, cluster_bwd_entries<float>());
  print_kernels(group, Pass::backward, at::kFloat, 0, group_bwd_entries<float>());
  const auto after = [](const auto& entries) { return entries.size(); };  // the kernels in TF32 come first
  print_kernels(cluster, Pass::forward, at::kFloat, after(cluster_fwd_entries<float>()), cluster_fwd_ieee_entries());
  print_kernels(group, Pass::forward, at::kFloat, after(group_fwd_entries<float>()), group_fwd_ieee_entries());
  print_kernels(cluster, Pass::backward, at::kFloat, after(cluster_bwd_entries<float>()), cluster_bwd_ieee_entries());
  print_kernels(group, Pass::backward, at::kFloat, after(group_bwd_entries<float>()), group_bwd_ieee_entries());
}

void print_steps() {
  constexpr int64_t kStreamedHidden = 1024;
  for (const Pass pass : {Pass::forward, Pass::backward}) {
    for (const at::ScalarType dtype : {at::kBFloat16, at::kFloat}) {
      for (const Family* family : families()) {
        for (const Kernel* any : family->kernels(pass, dtype)) {
          const auto* const kernel = dynamic_cast<const PersistentKernel*>(any);
          if (kernel == nullptr || kernel->is_for_masks()) continue;
          const bool streamed = family == &streamed_family();
          KernelQuery query{pass,
                            dtype,
                            /*T=*/1,
                            kernel->entry().rows,
                            streamed ? kStreamedHidden : kernel->most_hidden(),
                            /*D=*/1,
                            false,
                            false,
                            true,
                            false};
          const double seconds = kernel->seconds(query, 1, clock_rate());
          query.T = 0;
          std::printf("%s %s %s %.6g\n", kernel->name().c_str(), word(pass),
                      dtype == at::kBFloat16 ? "bf16"
                      : kernel->entry().ieee ? "fp32"
                                             : "tf32",
                      (seconds - kernel->seconds(query, 1, clock_rate())) * clock_rate());
        }
      }
    }
  }
}

void print_choice(const char* dtype, const KernelQuery& query) {
  const Candidate best = choose_kernels(query).candidates[0];
  const double seconds = best.kernel->name() == "one_step" ? seconds_of_call(query) : best.seconds;
  std::printf("%s %s %lld %lld %lld %s %.6g\n", dtype, word(query.pass), static_cast<long long>(query.T),
              static_cast<long long>(query.B), static_cast<long long>(query.H), best.kernel->name().c_str(), seconds);
}

void print_candidates(const char* dtype, const KernelQuery& query) {
  WhyNot unused;
  std::printf("%s %s %lld %lld %lld %lld", dtype, word(query.pass), static_cast<long long>(query.T),
              static_cast<long long>(query.B), static_cast<long long>(query.H), static_cast<long long>(query.D));
  for (const Family* family : families()) {
    for (const Candidate& candidate : family->candidates(query, "auto", unused)) {
      std::printf(" %s=%.6g", candidate.kernel->name().c_str(), candidate.seconds);
    }
  }
  std::printf("\n");
}

// Of a name of these lines; fp32 has the device forbid TF32.
at::ScalarType type_of(const std::string& dtype) {
  tf32_allowed = dtype != "fp32";
  return dtype == "bf16" ? at::kBFloat16 : at::kFloat;
}

// Calls print(dtype, query) for every call of a grid.
void for_each_call(void (*print)(const char*, const KernelQuery&), const std::vector<int64_t>& steps,
                   const std::vector<int64_t>& batches, const std::vector<int64_t>& widths, int64_t most_directions) {
  for (const char* dtype : {"bf16", "tf32", "fp32"}) {
    const at::ScalarType type = type_of(dtype);
    for (const Pass pass : {Pass::forward, Pass::backward}) {
      for (const int64_t T : steps) {
        for (const int64_t B : batches) {
          for (const int64_t H : widths) {
            for (int64_t D = 1; D <= most_directions; ++D) {
              print(dtype, {pass, type, T, B, H, D, /*packed=*/false, /*masked=*/false, /*keeps_gates=*/true,
                            /*capturing=*/false});
            }
          }
        }
      }
    }
  }
}

void print_choices() {
  for_each_call(print_choice, {1, 32, 512}, {1, 4, 8, 16, 32, 64, 128, 256},
                {64, 128, 160, 256, 512, 768, 1024, 1536, 2048, 2816, 4096}, /*most_directions=*/1);
}

void print_candidates() {
  for_each_call(print_candidates, {32, 512}, {1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256},
                {48,  64,  96,  128,  160,  192,  224,  256,  320,  384,  448,  512,
                 640, 768, 896, 1024, 1280, 1536, 1792, 2048, 2560, 2816, 3584, 4096},
                /*most_directions=*/2);
}

// `words`: DTYPE to KERNEL.
void print_call(char** words) {
  const auto number = [&](int i) { return std::atoll(words[i]); };
  const Pass pass = std::strcmp(words[1], "forward") == 0 ? Pass::forward : Pass::backward;
  const KernelQuery query{pass,
                          type_of(words[0]),
                          number(2),
                          number(3),
                          number(4),
                          /*D=*/1,
                          /*packed=*/false,
                          /*masked=*/false,
                          /*keeps_gates=*/true,
                          /*capturing=*/false,
                          number(5)};
  WhyNot unused;
  Candidate best{nullptr, std::numeric_limits<double>::infinity()};
  for (const Family* family : families()) {
    for (const Candidate& candidate : family->candidates(query, words[6], unused)) {
      if (candidate.seconds < best.seconds) best = candidate;
    }
  }
  const auto* const kernel = dynamic_cast<const PersistentKernel*>(best.kernel);
  if (kernel == nullptr) return;
  KernelQuery no_steps = query;
  no_steps.T = 0;
  std::printf("%s %lld %d %lld %.6g %.6g\n", kernel->name().c_str(), static_cast<long long>(kernel->clusters(query)),
              best.at_a_time, static_cast<long long>(kernel->rounds(query, best.at_a_time)), best.seconds,
              kernel->seconds(no_steps, best.at_a_time, clock_rate()));
}

bool set(const std::string& setting) {
  const size_t equals = setting.find('=');
  if (equals == std::string::npos) return false;
  const std::string name = setting.substr(0, equals);
  const double value = std::atof(setting.c_str() + equals + 1);
  if (name.rfind("resident_", 0) == 0) {
    measured_resident[std::atoi(name.c_str() + 9)] = static_cast<int>(value);
    return true;
  }
  const auto it = kSettings.find(name);
  if (it == kSettings.end()) return false;
  *it->second = value;
  return true;
}

}  // namespace
}  // namespace gru_ext

namespace c10 {
namespace cuda {

int current_device() { return 0; }

}  // namespace cuda
}  // namespace c10

int main(int count, char** words) {
  const std::string what = count > 1 ? words[1] : "";
  const int of_call = what == "call" ? 7 : 0;  // words that are no settings
  if (count < 2 + of_call) return 2;
  for (int i = 2 + of_call; i < count; ++i) {
    if (gru_ext::set(words[i])) continue;
    std::fprintf(stderr, "kernel_choices: there is no %s\n", words[i]);
    return 2;
  }
  if (what == "kernels") {
    gru_ext::print_kernels();
  } else if (what == "steps") {
    gru_ext::print_steps();
  } else if (what == "choices") {
    gru_ext::print_choices();
  } else if (what == "candidates") {
    gru_ext::print_candidates();
  } else if (what == "call") {
    gru_ext::print_call(words + 2);
  } else {
    return 2;
  }
}
