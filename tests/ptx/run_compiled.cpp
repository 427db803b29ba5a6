// The compiled kernels as Python runs them, see tests/emulator/runner.h: every entry of the tables that the linked
// instantiations have, by the project's own launchers.
#include <algorithm>

#include "cudart.h"
#include "cuda/persistent/cluster/entries.h"
#include "cuda/persistent/group/entries.h"
#include "cuda/persistent/streamed/entries.h"
#include "persistent_parameters.h"
#include "ptx.h"
#include "runner.h"

namespace gru_ext {

using device::bfloat16;
using device::float16;

#define GRU_TABLES(X, T)                                 \
  X(cluster_fwd, fwd_parameters, T, HeldFwdEntries)      \
  X(cluster_bwd, bwd_parameters, T, HeldBwdEntries)      \
  X(group_fwd, fwd_parameters, T, HeldFwdEntries)        \
  X(group_bwd, bwd_parameters, T, HeldBwdEntries)        \
  X(streamed_fwd, fwd_parameters, T, StreamedFwdEntries) \
  X(streamed_bwd, bwd_parameters, T, StreamedBwdEntries)

// Weak: a library may be linked of a few instantiations.
#define GRU_WEAK(family, parameters, T, Entries) \
  template <>                                    \
  __attribute__((weak)) const Entries<T>& family##_entries<T>();
GRU_TABLES(GRU_WEAK, bfloat16)
GRU_TABLES(GRU_WEAK, float16)
GRU_TABLES(GRU_WEAK, float)
__attribute__((weak)) const HeldFwdEntries<float>& cluster_fwd_ieee_entries();
__attribute__((weak)) const HeldBwdEntries<float>& cluster_bwd_ieee_entries();
__attribute__((weak)) const HeldFwdEntries<float>& group_fwd_ieee_entries();
__attribute__((weak)) const HeldBwdEntries<float>& group_bwd_ieee_entries();

namespace emulator {
namespace {

int architecture = cudart::Device().architecture;

}  // namespace

void begin(uint64_t seed, bool races, bool time_out, int lost_store, const std::string& fault) {
  ptx::options = {seed, races, time_out, lost_store};
  cudart::device = {};
  cudart::device.architecture = architecture;
  const std::string arrow = " -> ";
  if (fault == "none") return ptx::plant("", "");
  const size_t at = fault.find(arrow);
  if (at == std::string::npos) throw std::runtime_error("expected a fault as EXPRESSION -> REPLACEMENT, got " + fault);
  ptx::plant(fault.substr(0, at), fault.substr(at + arrow.size()));
}
void name_buffer(const std::string&, const void* p, size_t bytes, bool writable) { ptx::adopt(p, bytes, writable); }
void forget_buffers() { ptx::forget_all(); }

namespace {

// So little shared memory that as many slabs of a slice as the number "shared_slabs" says stay there.
void limit_shared_memory(const StreamedEntry& kernel, int H) {
  const int kept = static_cast<int>(number("shared_slabs")), all = cudart::device.shared_of_block;
  if (kept < 0) return;
  for (int bytes = 1024; bytes <= all; bytes += 1024) {
    cudart::device.shared_of_block = bytes;
    const StreamedShape shape = kernel.shape(H);
    if (shape.shared_bytes > 0 && shape.shared_slabs >= kept) return;
  }
}

template <typename Parameters>
void prepare(const HeldEntry& kernel, Parameters& p) {
  p.groups_at_a_time = kernel.resident();
}
template <typename Parameters>
void prepare(const StreamedEntry& kernel, Parameters& p) {
  limit_shared_memory(kernel, p.H);
  p.streamed = streamed_share(kernel.shape(p.H));
  p.groups_at_a_time = kernel.resident() / p.streamed.blocks;
}

std::string sizes_of(const HeldEntry& kernel) {
  return "H" + std::to_string(kernel.hidden) + "_C" + std::to_string(kernel.blocks) + "_rows" +
         std::to_string(kernel.rows);
}
std::string sizes_of(const StreamedEntry& kernel) {
  return "U" + std::to_string(kernel.units) + "_rows" + std::to_string(kernel.rows) + (kernel.masks ? "_masked" : "");
}

template <typename Entry, typename Parameters>
void make_known(const std::string& pass_of_family, const std::string& dtype,
                const std::vector<Launched<Entry, Parameters>>& (*table)(), Parameters (*parameters)()) {
  if (table == nullptr) return;
  for (const Launched<Entry, Parameters>& kernel : table()) {
    const std::string name = "gru_" + pass_of_family + "_" + (kernel.ieee ? "ieee" : dtype) + "_" + sizes_of(kernel);
    Kernel(name, [&kernel, parameters] {
      Parameters p = parameters();
      prepare(kernel, p);
      if (p.groups_at_a_time <= 0) throw std::runtime_error("the device has no room for the kernel");
      const char* const error = kernel.launch(p, /*stream=*/nullptr);
      if (error != nullptr) throw std::runtime_error(error);
    });
  }
}

#define GRU_KNOWN(family, parameters, T, Entries) make_known(#family, dtype, family##_entries<T>, parameters<T>);
template <typename T>
void make_known(const std::string& dtype) {
  GRU_TABLES(GRU_KNOWN, T)
}

const bool known = [] {
  make_known<bfloat16>("bfloat16");
  make_known<float16>("float16");
  make_known<float>("float");
  make_known("cluster_fwd", "ieee", cluster_fwd_ieee_entries, fwd_parameters<float>);
  make_known("cluster_bwd", "ieee", cluster_bwd_ieee_entries, bwd_parameters<float>);
  make_known("group_fwd", "ieee", group_fwd_ieee_entries, fwd_parameters<float>);
  make_known("group_bwd", "ieee", group_bwd_ieee_entries, bwd_parameters<float>);
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
