// Which kernels serve a call on the current device: the stepwise ones, which always can, a cluster-persistent one or,
// for a single time step of few rows, the one-step kernel.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "launchers.h"
#include "time_model.h"

namespace gru_ext {

// What a choice depends on; letters as in ../gru.h.
struct KernelQuery {
  Pass pass;
  at::ScalarType dtype;
  int64_t T, B, H, D;
  bool packed;
  bool masked;       // whether the layer has masks, and is plain otherwise
  bool keeps_gates;  // forward: whether it saves them; backward: whether they were saved
  bool capturing;    // whether the launches are recorded into a CUDA graph
};

// A cluster kernel that may serve.
struct Candidate {
  const ClusterKernel* kernel;
  int resident;    // clusters that the device runs at a time
  bool tested;     // whether it has passed the self-test there
  double seconds;  // that the call takes by the time model
};

struct KernelChoice {
  bool one_step = false;            // whether the one-step kernel serves; else:
  std::vector<Candidate> clusters;  // the fastest first; after them the stepwise kernels
  std::string why_stepwise;         // where there are none
  bool forced = false;              // whether the stepwise kernels are not to take their place
  std::string measured;             // what autotune has measured, in words; empty if the time model has chosen
  std::string kind;                 // under which name measurements of such calls are kept; empty if not to be measured
  std::vector<Candidate> to_measure;  // beside the stepwise kernels
  bool measure_one_step = false;      // and this one
};

// By the time model of docs/kernels.md, or as measured where autotune is on; unless use_cuda_kernels has said
// otherwise.
KernelChoice choose_kernels(const KernelQuery& query);

// Throws if use_cuda_kernels asks for others, where only the stepwise kernels compute what a call is for: layer_norm,
// and the reset gate before the product.
void check_stepwise_may_serve(Pass pass);

std::string name_of(const ClusterKernel& kernel);

// What came of a kernel on the current device: it passed the self-test, or there is a reason not to use it any more.
void mark_tested(const ClusterKernel& kernel);
void rule_out(const ClusterKernel& kernel, const std::string& why);

// The word that a cluster kernel sets where a wait took too long; null if the current device has none.
int* error_word();
// Whether one has, since this was asked last; the kernel has then ended without results.
bool take_error();
// Throws if one of an earlier call on the current device has. No cluster kernel serves there from then on.
void check_earlier_calls();

// How long a wait inside a cluster kernel may take, by the clock of wait_clock.h.
uint32_t wait_limit();

// The operators of gru_ext/kernel_choice.py: `cuda_kernel` returns name and reason, `cuda_kernel_names` those of all
// cluster kernels, `use_cuda_kernels` and `set_cuda_wait_limit` what they were told before.
std::tuple<std::string, std::string> cuda_kernel(at::ScalarType dtype, int64_t T, int64_t B, int64_t H,
                                                 bool bidirectional, bool packed, bool keeps_gates, bool backward,
                                                 bool masked);
std::vector<std::string> cuda_kernel_names(at::ScalarType dtype, bool backward);
std::tuple<std::string, std::string> use_cuda_kernels(std::string forward, std::string backward);
double set_cuda_wait_limit(double seconds);

}  // namespace gru_ext
