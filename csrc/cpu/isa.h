// Which instruction set the CPU kernels run with: the fastest that the machine has, chosen once, or the one that the
// environment variable GRU_EXT_CPU_ISA names.
#pragma once

#include <string>
#include <vector>

namespace gru_ext {

// avx2_vnni and avx512_vnni are avx2 and avx512 with dot products of int8; avx512_bf16 is avx512_vnni with dot products
// of bfloat16; avx512_amx has tiles for both, and avx512_amx_portable tiles in C++ that give the same bits, for tests.
enum class CpuIsa { portable, avx2, avx2_vnni, avx512, avx512_vnni, avx512_bf16, avx512_amx_portable, avx512_amx };

// The instruction sets that this build has kernels for and this machine can run, the fastest last. Intel's dot products
// of bfloat16 are slower than fused multiply-adds of what they are made of: avx512_vnni comes after avx512_bf16 there.
const std::vector<CpuIsa>& available_isas();

// Why avx512_amx is not among them; empty where it is, or where the machine lacks what it needs beside tiles.
std::string reason_without_tiles();

// The one in use. Throws ValueError when GRU_EXT_CPU_ISA names none of the available ones.
CpuIsa cpu_isa();

// Whether its kernels multiply bfloat16 as it is.
bool multiplies_bf16();

// Whether they have tiles, of either kind.
bool has_tiles();

const char* isa_name(CpuIsa isa);
std::vector<std::string> available_isa_names();

}  // namespace gru_ext
