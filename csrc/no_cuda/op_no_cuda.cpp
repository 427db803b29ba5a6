// What is registered in the place of csrc/cuda where that is not built.
#include "no_cuda/no_int8.h"
#include "op/registration.h"

namespace gru_ext {
namespace {

void no_cuda_kernels(const c10::OperatorHandle&, torch::jit::Stack*) {
  TORCH_CHECK_NOT_IMPLEMENTED(false,
                              "gru: expected tensors on the CPU, got CUDA tensors: this build of gru_ext has no CUDA"
                              " kernels (" GRU_EXT_CUDA_BUILD
                              "); build it with them, move the model and its input to the CPU, or use torch.nn.GRU");
}

}  // namespace
}  // namespace gru_ext

TORCH_LIBRARY_FRAGMENT(gru_ext, m) {
  if (gru_ext::is_first_copy()) m.def("has_cuda_kernels() -> bool", [] { return false; });
}

TORCH_LIBRARY_IMPL(gru_ext, CUDA, m) {
  if (!gru_ext::is_first_copy()) return;
  for (const char* name : {"gru_fwd", "gru_bwd", "gru_fwd_members", "gru_bwd_members"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&gru_ext::no_cuda_kernels>());
  }
  gru_ext::refuse_int8(m);
}
