// Which kernels the time model chooses, with other constants than those in the source: csrc/cuda/kernel_choice.cpp as
// it is, on a device that is described by the arguments. gpu_constants.py builds it, of a copy of csrc in which the
// constants can be set.
//
//     kernel_choices kernels                      prints what the model knows of each cluster and group kernel: name,
//                                                 pass, dtype, H, C, rows, overflow bytes, packet bytes
//     kernel_choices choices NAME=VALUE ...       prints a line for each call: dtype, pass, T, B, H, name, seconds
//
// NAME: a constant; or multiprocessors, shared_bytes, clock_rate; or resident_C: clusters of C blocks at a time.
#include "kernel_choice.cpp"

#include <cstdlib>
#include <cstring>

#include "device.h"
#include "gru_cluster_bwd.cuh"
#include "gru_cluster_configs.h"
#include "gru_cluster_fwd.cuh"
#include "gru_group_bwd.cuh"
#include "gru_streamed_bwd.cuh"
#include "gru_streamed_configs.h"
#include "gru_streamed_fwd.cuh"

namespace gru_ext {
namespace {

// Of an H200, unless the arguments say otherwise.
double multiprocessors = 132, shared_bytes = 227 << 10, device_clock_rate = 0;
bool tf32_allowed = true;
std::map<int, int> measured_resident;  // by blocks of a cluster

const std::map<std::string, double*> kSettings = {
#include "constants.inc"
    {"multiprocessors", &multiprocessors},
    {"shared_bytes", &shared_bytes},
    {"clock_rate", &device_clock_rate},
};

// A block of these kernels has a multiprocessor of its own.
template <typename Traits, bool kCluster>
int resident() {
  const auto it = measured_resident.find(Traits::kC);
  return kCluster && it != measured_resident.end() ? it->second : static_cast<int>(multiprocessors) / Traits::kC;
}

template <typename Traits>
ClusterKernel entry(int packet_bytes, int (*resident)()) {
  return {device::kOnFmaUnits<typename Traits::Operand>,
          Traits::kHidden,
          Traits::kC,
          Traits::kRows,
          Traits::kOverflowBytes,
          packet_bytes,
          resident};
}
template <typename Traits>
ClusterKernel streamed_entry() {
  return {/*ieee=*/false,
          /*hidden=*/std::numeric_limits<int>::max(),
          /*blocks=*/0,
          Traits::kRows,
          /*overflow_bytes=*/0,
          /*packet_bytes=*/0,
          [] { return static_cast<int>(multiprocessors); },
          Traits::kUnits,
          [](int H) { return device::streamed_shape<Traits>(H, static_cast<int>(shared_bytes)); }};
}

}  // namespace

// ---- What kernel_choice.cpp asks of the rest of the backend

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

#define CLUSTER_FWD(...)                                                              \
  {{entry<device::GruClusterFwdTraits<T, __VA_ARGS__>>(                               \
       0, resident<device::GruClusterFwdTraits<T, __VA_ARGS__>, /*kCluster=*/true>)}, \
   nullptr},
#define CLUSTER_BWD(...)                                                              \
  {{entry<device::GruClusterBwdTraits<T, __VA_ARGS__>>(                               \
       0, resident<device::GruClusterBwdTraits<T, __VA_ARGS__>, /*kCluster=*/true>)}, \
   nullptr},
#define GROUP_FWD(...)                                                                                         \
  {{entry<device::GruClusterFwdTraits<T, __VA_ARGS__, device::Exchange::packets>>(                             \
       device::GruClusterFwdTraits<T, __VA_ARGS__, device::Exchange::packets>::kPacketBytes,                   \
       resident<device::GruClusterFwdTraits<T, __VA_ARGS__, device::Exchange::packets>, /*kCluster=*/false>)}, \
   nullptr},
#define GROUP_BWD(...)                                                            \
  {{entry<device::GruGroupBwdTraits<T, __VA_ARGS__>>(                             \
       device::GruGroupBwdTraits<T, __VA_ARGS__>::kPacketBytes,                   \
       resident<device::GruGroupBwdTraits<T, __VA_ARGS__>, /*kCluster=*/false>)}, \
   nullptr},
#define STREAMED_FWD(...) {{streamed_entry<device::GruStreamedFwdTraits<T, __VA_ARGS__>>()}, nullptr},
#define STREAMED_BWD(...) {{streamed_entry<device::GruStreamedBwdTraits<T, __VA_ARGS__>>()}, nullptr},

template <typename T>
using Forward = std::vector<GruClusterKernel<GruClusterFwdParams<T>>>;
template <typename T>
using Backward = std::vector<GruClusterKernel<GruClusterBwdParams<T>>>;

#define KERNELS_OF(type, kind)                                                                                   \
  template <>                                                                                                    \
  const Forward<type>& gru_cluster_fwd_kernels<type>() {                                                         \
    using T = type;                                                                                              \
    static const Forward<type> kernels = {GRU_CLUSTER_FWD_##kind(CLUSTER_FWD) GRU_GROUP_FWD_##kind(GROUP_FWD)};  \
    return kernels;                                                                                              \
  }                                                                                                              \
  template <>                                                                                                    \
  const Backward<type>& gru_cluster_bwd_kernels<type>() {                                                        \
    using T = type;                                                                                              \
    static const Backward<type> kernels = {GRU_CLUSTER_BWD_##kind(CLUSTER_BWD) GRU_GROUP_BWD_##kind(GROUP_BWD)}; \
    return kernels;                                                                                              \
  }                                                                                                              \
  template <>                                                                                                    \
  const Forward<type>& gru_streamed_fwd_kernels<type>() {                                                        \
    using T = type;                                                                                              \
    static const Forward<type> kernels = {GRU_STREAMED_FWD_##kind(STREAMED_FWD)};                                \
    return kernels;                                                                                              \
  }                                                                                                              \
  template <>                                                                                                    \
  const Backward<type>& gru_streamed_bwd_kernels<type>() {                                                       \
    using T = type;                                                                                              \
    static const Backward<type> kernels = {GRU_STREAMED_BWD_##kind(STREAMED_BWD)};                               \
    return kernels;                                                                                              \
  }

KERNELS_OF(device::bfloat16, 16BIT)
KERNELS_OF(float, TF32)

// The other half has the same kernels.
template <>
const Forward<device::float16>& gru_cluster_fwd_kernels<device::float16>() {
  static const Forward<device::float16> kernels;
  return kernels;
}
template <>
const Backward<device::float16>& gru_cluster_bwd_kernels<device::float16>() {
  static const Backward<device::float16> kernels;
  return kernels;
}
template <>
const Forward<device::float16>& gru_streamed_fwd_kernels<device::float16>() {
  static const Forward<device::float16> kernels;
  return kernels;
}
template <>
const Backward<device::float16>& gru_streamed_bwd_kernels<device::float16>() {
  static const Backward<device::float16> kernels;
  return kernels;
}
const Forward<float>& gru_cluster_fwd_ieee_kernels() {
  using T = device::ieee;
  static const Forward<float> kernels = {GRU_CLUSTER_FWD_IEEE(CLUSTER_FWD) GRU_GROUP_FWD_IEEE(GROUP_FWD)};
  return kernels;
}
const Backward<float>& gru_cluster_bwd_ieee_kernels() {
  using T = device::ieee;
  static const Backward<float> kernels = {GRU_CLUSTER_BWD_IEEE(CLUSTER_BWD) GRU_GROUP_BWD_IEEE(GROUP_BWD)};
  return kernels;
}

// ---- The program

namespace {

const char* word(Pass pass) { return pass == Pass::forward ? "forward" : "backward"; }

void print_kernels() {
  for (const Pass pass : {Pass::forward, Pass::backward}) {
    for (const at::ScalarType dtype : {at::kBFloat16, at::kFloat}) {
      for (const ClusterKernel* kernel : all_kernels(pass, dtype)) {
        if (kernel->shape) continue;
        std::printf("%s %s %s %d %d %d %d %d\n", name_of(*kernel).c_str(), word(pass),
                    dtype == at::kBFloat16 ? "bf16"
                    : kernel->ieee         ? "fp32"
                                           : "tf32",
                    kernel->hidden, kernel->blocks, kernel->rows, kernel->overflow_bytes, kernel->packet_bytes);
      }
    }
  }
}

void print_choice(const char* dtype, const KernelQuery& query) {
  const KernelChoice choice = choose_kernels(query);
  const std::string name = choice.one_step           ? "one_step"
                           : choice.clusters.empty() ? "stepwise"
                                                     : name_of(*choice.clusters[0].kernel);
  const double seconds = choice.one_step           ? one_step_seconds(query)
                         : choice.clusters.empty() ? stepwise_seconds(query)
                                                   : choice.clusters[0].seconds;
  std::printf("%s %s %lld %lld %lld %s %.6g\n", dtype, word(query.pass), static_cast<long long>(query.T),
              static_cast<long long>(query.B), static_cast<long long>(query.H), name.c_str(), seconds);
}

void print_choices() {
  for (const char* dtype : {"bf16", "tf32", "fp32"}) {
    tf32_allowed = std::strcmp(dtype, "fp32") != 0;
    const at::ScalarType type = std::strcmp(dtype, "bf16") == 0 ? at::kBFloat16 : at::kFloat;
    for (const Pass pass : {Pass::forward, Pass::backward}) {
      for (const int64_t T : {1, 32, 512}) {
        for (const int64_t B : {1, 4, 8, 16, 32, 64, 128, 256}) {
          for (const int64_t H : {64, 128, 160, 256, 512, 768, 1024, 1536, 2048, 2816, 4096}) {
            print_choice(dtype, {pass, type, T, B, H, /*D=*/1, /*packed=*/false, /*masked=*/false, /*keeps_gates=*/true,
                                 /*capturing=*/false});
          }
        }
      }
    }
  }
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
  for (int i = 2; i < count; ++i) {
    if (gru_ext::set(words[i])) continue;
    std::fprintf(stderr, "kernel_choices: there is no %s\n", words[i]);
    return 2;
  }
  if (what == "kernels") {
    gru_ext::print_kernels();
  } else if (what == "choices") {
    gru_ext::print_choices();
  } else {
    return 2;
  }
}
