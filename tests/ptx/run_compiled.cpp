// The compiled kernels as Python runs them, see tests/emulator/runner.h: every entry of the tables that the linked
// instantiations have, by the project's own launchers.
#include <algorithm>
#include <exception>

#include "cudart.h"
#include "launchers.h"
#include "persistent_parameters.h"
#include "ptx.h"
#include "runner.h"

namespace gru_ext {

using device::bfloat16;
using device::float16;

// Weak: a library may be linked of a few instantiations.
#define GRU_TABLES(T)                                                                                               \
  template <>                                                                                                       \
  __attribute__((weak)) const std::vector<GruClusterKernel<GruClusterFwdParams<T>>>& gru_cluster_fwd_kernels<T>();  \
  template <>                                                                                                       \
  __attribute__((weak)) const std::vector<GruClusterKernel<GruClusterBwdParams<T>>>& gru_cluster_bwd_kernels<T>();  \
  template <>                                                                                                       \
  __attribute__((weak)) const std::vector<GruClusterKernel<GruClusterFwdParams<T>>>& gru_streamed_fwd_kernels<T>(); \
  template <>                                                                                                       \
  __attribute__((weak)) const std::vector<GruClusterKernel<GruClusterBwdParams<T>>>& gru_streamed_bwd_kernels<T>();
GRU_TABLES(bfloat16)
GRU_TABLES(float16)
GRU_TABLES(float)
#undef GRU_TABLES
__attribute__((weak)) const std::vector<GruClusterKernel<GruClusterFwdParams<float>>>& gru_cluster_fwd_ieee_kernels();
__attribute__((weak)) const std::vector<GruClusterKernel<GruClusterBwdParams<float>>>& gru_cluster_bwd_ieee_kernels();

namespace emulator {
namespace {

int architecture = cudart::Device().architecture;

}  // namespace

void begin(const Schedule& schedule) {
  ptx::options = {schedule.seed, schedule.races, schedule.time_out, schedule.lost_store};
  cudart::device = {};
  cudart::device.architecture = architecture;
  const std::string fault = schedule.fault, arrow = " -> ";
  if (fault == "none") return ptx::plant("", "");
  const size_t at = fault.find(arrow);
  if (at == std::string::npos) throw std::runtime_error("expected a fault as EXPRESSION -> REPLACEMENT, got " + fault);
  ptx::plant(fault.substr(0, at), fault.substr(at + arrow.size()));
}
void name_buffer(const std::string&, const void* p, size_t bytes, bool writable) { ptx::adopt(p, bytes, writable); }
void forget_buffers() { ptx::forget_all(); }

namespace {

// So little shared memory that as many slabs of a slice as the number "shared_slabs" says stay there.
void limit_shared_memory(const ClusterKernel& kernel, int H) {
  const int kept = static_cast<int>(number("shared_slabs")), all = cudart::device.shared_of_block;
  if (kept < 0) return;
  for (int bytes = 1024; bytes <= all; bytes += 1024) {
    cudart::device.shared_of_block = bytes;
    const StreamedShape shape = kernel.shape(H);
    if (shape.shared_bytes > 0 && shape.shared_slabs >= kept) return;
  }
}

template <typename Parameters>
void run(const GruClusterKernel<Parameters>& kernel, Parameters p) {
  if (kernel.units > 0) {
    limit_shared_memory(kernel, p.H);
    p.streamed = streamed_share(kernel.shape(p.H), p.D * ((p.B + kernel.rows - 1) / kernel.rows));
  }
  const char* const error = kernel.launch(p, /*stream=*/nullptr);
  if (error != nullptr) throw std::runtime_error(error);
}

template <typename Parameters>
void make_known(const std::string& pass, const std::string& dtype,
                const std::vector<GruClusterKernel<Parameters>>& (*table)(), Parameters (*parameters)()) {
  if (table == nullptr) return;
  for (const GruClusterKernel<Parameters>& kernel : table()) {
    std::string name = kernel.units > 0 ? "gru_streamed_" : kernel.packet_bytes > 0 ? "gru_group_" : "gru_cluster_";
    name += pass + "_" + (kernel.ieee ? "ieee" : dtype);
    name += kernel.units > 0 ? "_U" + std::to_string(kernel.units)
                             : "_H" + std::to_string(kernel.hidden) + "_C" + std::to_string(kernel.blocks);
    name += "_rows" + std::to_string(kernel.rows) + (kernel.masks ? "_masked" : "");
    Kernel(name, [&kernel, parameters] { run(kernel, parameters()); });
  }
}

template <typename T>
void make_known(const std::string& dtype) {
  make_known("fwd", dtype, gru_cluster_fwd_kernels<T>, fwd_parameters<T>);
  make_known("bwd", dtype, gru_cluster_bwd_kernels<T>, bwd_parameters<T>);
  make_known("fwd", dtype, gru_streamed_fwd_kernels<T>, fwd_parameters<T>);
  make_known("bwd", dtype, gru_streamed_bwd_kernels<T>, bwd_parameters<T>);
}

const bool known = [] {
  make_known<bfloat16>("bfloat16");
  make_known<float16>("float16");
  make_known<float>("float");
  make_known("fwd", "ieee", gru_cluster_fwd_ieee_kernels, fwd_parameters<float>);
  make_known("bwd", "ieee", gru_cluster_bwd_ieee_kernels, bwd_parameters<float>);
  return true;
}();

}  // namespace

}  // namespace emulator
}  // namespace gru_ext

extern "C" {

// From now on launches run what was compiled for this architecture, or the newest before it: 90 for sm_90.
void gru_ptx_use_architecture(int number) { gru_ext::emulator::architecture = number; }

// The compiled kernels of this library, a line each, as nvcc names them: whether it was run (1 or 0), then the name.
const char* gru_ptx_kernels() {
  static std::string lines;
  lines.clear();
  const std::vector<std::string> run = ptx::kernels_run();
  for (const std::string& name : cudart::kernels()) {
    lines += std::string(std::count(run.begin(), run.end(), name) > 0 ? "1 " : "0 ") + name + "\n";
  }
  return lines.c_str();
}

// See ptx::coverage.
const char* gru_ptx_coverage() {
  static std::string lines;
  lines = ptx::coverage();
  return lines.c_str();
}
}
