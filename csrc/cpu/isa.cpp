#include "cpu/isa.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>
#include <c10/util/Half.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <type_traits>

#include "cpu/int8/int8_kernels.h"
#include "cpu/kernels/kernels.h"
#include "cpu/tiles.h"

namespace gru_ext {

namespace {

// In the order of CpuIsa.
constexpr std::array kNames = {"portable",    "avx2",        "avx2_vnni",           "avx512",
                               "avx512_vnni", "avx512_bf16", "avx512_amx_portable", "avx512_amx"};

// What GRU_EXT_CPU_ISA says; empty where it says nothing.
std::string forced_isa() {
  const char* forced = std::getenv("GRU_EXT_CPU_ISA");
  return forced == nullptr ? "" : forced;
}

using Half = c10::BFloat16;

}  // namespace

std::string reason_without_tiles() {
#if defined(__x86_64__)
  if (!fwd_kernels_avx512_amx<Half, Half>) return "this build has no kernels for them";
#endif
  // Linux is asked for a wrong name too: its error lists what this machine has.
  const std::string forced = forced_isa();
  const bool is_name = std::find(kNames.begin(), kNames.end(), forced) != kNames.end();
  if (is_name && forced != isa_name(CpuIsa::avx512_amx)) return "GRU_EXT_CPU_ISA names no kernels for them";
  return why_no_tiles();
}

const std::vector<CpuIsa>& available_isas() {
  static const std::vector<CpuIsa> isas = [] {
    std::vector<CpuIsa> found = {CpuIsa::portable};
#if defined(__x86_64__)
    __builtin_cpu_init();
    const auto has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const auto has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (!has_avx2 || !fwd_kernels_avx2<float, float>) return found;
    found.push_back(CpuIsa::avx2);
    if (__builtin_cpu_supports("avxvnni") && int8_kernel_avx2_vnni) found.push_back(CpuIsa::avx2_vnni);
    if (!has_avx512 || !fwd_kernels_avx512<float, float>) return found;
    found.push_back(CpuIsa::avx512);
    if (!__builtin_cpu_supports("avx512vnni") || !int8_kernel_avx512_vnni) return found;
    const bool has_bf16 = __builtin_cpu_supports("avx512bf16") && fwd_kernels_avx512_bf16<Half, Half>;
    const bool has_fast_bf16 = has_bf16 && !__builtin_cpu_is("intel");
    if (has_bf16 && fwd_kernels_avx512_amx_portable<Half, Half>) found.push_back(CpuIsa::avx512_amx_portable);
    if (has_bf16 && !has_fast_bf16) found.push_back(CpuIsa::avx512_bf16);
    found.push_back(CpuIsa::avx512_vnni);
    if (has_fast_bf16) found.push_back(CpuIsa::avx512_bf16);
    if (has_bf16 && reason_without_tiles().empty()) found.push_back(CpuIsa::avx512_amx);
#endif
    return found;
  }();
  return isas;
}

const char* isa_name(CpuIsa isa) { return kNames[static_cast<size_t>(isa)]; }

std::vector<std::string> available_isa_names() {
  std::vector<std::string> names;
  for (const CpuIsa isa : available_isas()) names.emplace_back(isa_name(isa));
  return names;
}

CpuIsa cpu_isa() {
  static const CpuIsa chosen = [] {
    const std::string forced = forced_isa();
    const std::vector<CpuIsa>& isas = available_isas();
    const auto found = std::find_if(isas.begin(), isas.end(), [&](CpuIsa isa) { return forced == isa_name(isa); });
    TORCH_CHECK_VALUE(forced.empty() || found != isas.end(),
                      "gru_ext: expected the environment variable GRU_EXT_CPU_ISA to be one of ",
                      c10::Join(", ", available_isa_names()), " on this machine, got ", forced);
    return forced.empty() ? isas.back() : *found;
  }();
  return chosen;
}

bool multiplies_bf16() { return cpu_isa() >= CpuIsa::avx512_bf16; }
bool has_tiles() { return cpu_isa() >= CpuIsa::avx512_amx_portable; }

// Returns the table of the instruction set in use. Those that multiply bfloat16 have tables of their own for it alone.
#if defined(__x86_64__)
#define GRU_CHOOSE_KERNELS(kernels)                                                                            \
  if constexpr (std::is_base_of_v<c10::BFloat16, operand_t>) {                                                 \
    if (cpu_isa() == CpuIsa::avx512_amx) return kernels##_avx512_amx<scalar_t, operand_t>();                   \
    if (cpu_isa() == CpuIsa::avx512_amx_portable) return kernels##_avx512_amx_portable<scalar_t, operand_t>(); \
    return kernels##_avx512_bf16<scalar_t, operand_t>();                                                       \
  } else {                                                                                                     \
    if (cpu_isa() >= CpuIsa::avx512) return kernels##_avx512<scalar_t, operand_t>();                           \
    if (cpu_isa() >= CpuIsa::avx2) return kernels##_avx2<scalar_t, operand_t>();                               \
    return kernels##_portable<scalar_t, operand_t>();                                                          \
  }                                                                                                            \
  static_assert(true)
#else
#define GRU_CHOOSE_KERNELS(kernels) return kernels##_portable<scalar_t, operand_t>()
#endif

template <typename scalar_t, typename operand_t>
FwdKernels<scalar_t, operand_t> fwd_kernels() {
  GRU_CHOOSE_KERNELS(fwd_kernels);
}

template <typename scalar_t, typename operand_t>
BwdKernels<scalar_t, operand_t> bwd_kernels() {
  GRU_CHOOSE_KERNELS(bwd_kernels);
}

Int8Kernel int8_kernel() {
  switch (cpu_isa()) {
#if defined(__x86_64__)
    case CpuIsa::avx512_amx:
      return int8_kernel_avx512_amx();
    case CpuIsa::avx512_amx_portable:
      return int8_kernel_avx512_amx_portable();
    case CpuIsa::avx512_bf16:
    case CpuIsa::avx512_vnni:
      return int8_kernel_avx512_vnni();
    case CpuIsa::avx2_vnni:
      return int8_kernel_avx2_vnni();
    case CpuIsa::avx512:  // AVX-512 without VNNI has no kernel of its own
    case CpuIsa::avx2:
      return int8_kernel_avx2();
#endif
    default:
      return int8_kernel_portable();
  }
}

#define GRU_INSTANTIATE(scalar_t, operand_t)              \
  template FwdKernels<scalar_t, operand_t> fwd_kernels(); \
  template BwdKernels<scalar_t, operand_t> bwd_kernels()
GRU_INSTANTIATE(float, float);
GRU_INSTANTIATE(double, double);
GRU_INSTANTIATE(c10::BFloat16, float);
GRU_INSTANTIATE(c10::Half, float);
#if defined(__x86_64__)
GRU_INSTANTIATE(c10::BFloat16, c10::BFloat16);
GRU_INSTANTIATE(float, c10::BFloat16);
GRU_INSTANTIATE(float, Part<2>);
#endif

}  // namespace gru_ext
