// The operators and their backends.
#include "gru.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include "operators.h"
#include "registration.h"
#if defined(GRU_EXT_WITH_CUDA)
#include "cuda/autotune.h"
#include "cuda/kernel_choice.h"
#endif

namespace gru_ext {

using at::Tensor;

FwdResult gru_fwd(const Layer& l, bool save_gates, bool save_y) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("gru_ext::gru_fwd", "")
                             .typed<decltype(gru_fwd_operator<gru_fwd_cpu>)>();
  const Variant& v = l.variant;
  return op.call(l.x, l.hx, l.weights, l.batch_sizes, l.bidirectional, save_gates, save_y, v.zoneout_mask,
                 v.recurrent_mask, v.candidate_mask, v.zoneout, v.recurrent_dropout, v.candidate_dropout, v.reset_after,
                 v.layer_norm);
}

BwdResult gru_bwd(const OptionalTensor& dy, const OptionalTensor& dh_n, const Layer& l, const Tensor& y,
                  const Tensor& gates, Need need) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("gru_ext::gru_bwd", "")
                             .typed<decltype(gru_bwd_operator<gru_bwd_cpu>)>();
  const Variant& v = l.variant;
  return op.call(dy, dh_n, l.x, l.hx, l.weights, l.batch_sizes, l.bidirectional, y, gates, need.dx, need.dhx,
                 need.dweights, v.zoneout_mask, v.recurrent_mask, v.candidate_mask, v.zoneout, v.recurrent_dropout,
                 v.candidate_dropout, v.reset_after, v.layer_norm);
}

namespace {

void no_int8_cuda_kernels(const c10::OperatorHandle&, torch::jit::Stack*) {
  TORCH_CHECK_NOT_IMPLEMENTED(false,
                              "gru: expected tensors on the CPU, got CUDA tensors: int8 weights have kernels for CPUs"
                              " only");
}

#if !defined(GRU_EXT_WITH_CUDA)
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
  m.set_python_module("gru_ext.tracing");
  m.def(GRU_SCHEMA);
  m.def(GRU_FWD_SCHEMA);
  m.def(GRU_BWD_SCHEMA);
#if defined(GRU_EXT_WITH_CUDA)
  m.def(
      "cuda_kernel(ScalarType dtype, int T, int B, int H, bool bidirectional, bool packed, bool keeps_gates, bool "
      "backward, bool masked=False)"
      " -> (str name, str reason)",
      &gru_ext::cuda_kernel);
  m.def("cuda_kernel_names(ScalarType dtype, bool backward) -> str[]", &gru_ext::cuda_kernel_names);
  m.def("use_cuda_kernels(str forward, str backward) -> (str, str)", &gru_ext::use_cuda_kernels);
  m.def("set_cuda_wait_limit(float seconds) -> float", &gru_ext::set_cuda_wait_limit);
  m.def("autotune(bool enable, str path) -> ()", &gru_ext::autotune);
#endif
}

TORCH_LIBRARY_IMPL(gru_ext, CompositeImplicitAutograd, m) {
  if (!gru_ext::is_first_copy()) return;
  m.impl("gru", gru_ext::gru_operator<gru_ext::gru>);
}

TORCH_LIBRARY_IMPL(gru_ext, CPU, m) {
  if (!gru_ext::is_first_copy()) return;
  m.impl("gru_fwd", gru_ext::gru_fwd_operator<gru_ext::gru_fwd_cpu>);
  m.impl("gru_bwd", gru_ext::gru_bwd_operator<gru_ext::gru_bwd_cpu>);
}

TORCH_LIBRARY_IMPL(gru_ext, CUDA, m) {
  if (!gru_ext::is_first_copy()) return;
#if defined(GRU_EXT_WITH_CUDA)
  m.impl("gru_fwd", gru_ext::gru_fwd_operator<gru_ext::gru_fwd_cuda>);
  m.impl("gru_bwd", gru_ext::gru_bwd_operator<gru_ext::gru_bwd_cuda>);
#else
  m.impl("gru_fwd", torch::CppFunction::makeFromBoxedFunction<&gru_ext::no_cuda_kernels>());
  m.impl("gru_bwd", torch::CppFunction::makeFromBoxedFunction<&gru_ext::no_cuda_kernels>());
  m.impl("gru_fwd_members", torch::CppFunction::makeFromBoxedFunction<&gru_ext::no_cuda_kernels>());
  m.impl("gru_bwd_members", torch::CppFunction::makeFromBoxedFunction<&gru_ext::no_cuda_kernels>());
#endif
  m.impl("gru_int8", torch::CppFunction::makeFromBoxedFunction<&gru_ext::no_int8_cuda_kernels>());
}
