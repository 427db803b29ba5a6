// The operators of csrc/members.cpp for CUDA, which registers them under that key for a library of another name: here
// they are functions, which operators.cpp registers for the CPU.
#include <torch/library.h>

#undef TORCH_LIBRARY_FRAGMENT
#undef TORCH_LIBRARY_IMPL
#define TORCH_LIBRARY_FRAGMENT(name, m) static void define(torch::Library& m)
#define TORCH_LIBRARY_IMPL(name, key, m) [[maybe_unused]] static void implement_##key(torch::Library& m)
#include "../../../csrc/members.cpp"

bool gru_ext::is_first_copy() { return true; }

void define_members(torch::Library& m) { define(m); }
void implement_members(torch::Library& m) { implement_CUDA(m); }
