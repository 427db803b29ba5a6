// What src/gru_ext/library.py asks of the library, as operators: the library serves programs without Python too, so
// that nothing in it may need one.
#include <ATen/core/Dict.h>
#include <torch/library.h>

#include <string>

#include "op/registration.h"

namespace gru_ext {
namespace {

// src/gru_ext/library.py reads this section of the file before it loads it, which another torch may not survive.
__attribute__((section("gru_ext_torch"), used)) const char built_for_torch[] = GRU_EXT_TORCH_VERSION;

c10::Dict<std::string, std::string> build_facts() {
  c10::Dict<std::string, std::string> facts;
  facts.insert("version", GRU_EXT_VERSION);
  facts.insert("built_for_torch", built_for_torch);
  facts.insert("cuda_build", GRU_EXT_CUDA_BUILD);
  facts.insert("loaded_from", loaded_from());
  return facts;
}

#if defined(GRU_EXT_WITH_CUDA)
constexpr bool kHasCudaKernels = true;
#else
constexpr bool kHasCudaKernels = false;

void no_cuda_kernels(const c10::OperatorHandle&, torch::jit::Stack*) {
  TORCH_CHECK_NOT_IMPLEMENTED(false,
                              "gru: expected tensors on the CPU, got CUDA tensors: this build of gru_ext has no CUDA"
                              " kernels (" GRU_EXT_CUDA_BUILD
                              "); build it with them, move the model and its input to the CPU, or use torch.nn.GRU");
}
#endif

}  // namespace
}  // namespace gru_ext

TORCH_LIBRARY_FRAGMENT(gru_ext, m) {
  if (!gru_ext::is_first_copy()) return;
  m.def("build_facts() -> Dict(str, str)", gru_ext::build_facts);
  m.def("has_cuda_kernels() -> bool", [] { return gru_ext::kHasCudaKernels; });
}

#if !defined(GRU_EXT_WITH_CUDA)
TORCH_LIBRARY_IMPL(gru_ext, CUDA, m) {
  if (!gru_ext::is_first_copy()) return;
  for (const char* name : {"gru_fwd", "gru_bwd", "gru_fwd_members", "gru_bwd_members"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&gru_ext::no_cuda_kernels>());
  }
}
#endif
