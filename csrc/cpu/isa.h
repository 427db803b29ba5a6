// Which instruction set the CPU kernels run with: the widest that the machine has, chosen once, or the one that the
// environment variable GRU_EXT_CPU_ISA names.
#pragma once

#include <string>
#include <vector>

namespace gru_ext {

// avx512_bf16 is avx512 with dot products of bfloat16.
enum class CpuIsa { portable, avx2, avx512, avx512_bf16 };

// The instruction sets that this build has kernels for and this machine can run, narrowest first.
const std::vector<CpuIsa>& available_isas();

// The one in use. Throws ValueError when GRU_EXT_CPU_ISA names none of the available ones.
CpuIsa cpu_isa();

// Whether its kernels multiply bfloat16 as it is.
bool multiplies_bf16();

const char* isa_name(CpuIsa isa);
std::vector<std::string> available_isa_names();

}  // namespace gru_ext
