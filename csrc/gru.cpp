// The operators' schemas and backends.
#include "gru.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

namespace gru_ext {

using at::Tensor;
using at::TensorList;

std::tuple<Tensor, Tensor, Tensor> gru_fwd(const Tensor& x, const std::optional<Tensor>& hx, TensorList weights,
                                           const std::optional<Tensor>& batch_sizes, bool bidirectional,
                                           bool save_gates) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("gru_ext::gru_fwd", "").typed<decltype(gru_fwd)>();
  return op.call(x, hx, weights, batch_sizes, bidirectional, save_gates);
}

std::tuple<Tensor, Tensor, std::vector<Tensor>> gru_bwd(const std::optional<Tensor>& dy,
                                                        const std::optional<Tensor>& dh_n, const Tensor& x,
                                                        const std::optional<Tensor>& hx, TensorList weights,
                                                        const std::optional<Tensor>& batch_sizes, bool bidirectional,
                                                        const Tensor& y, const Tensor& gates, bool need_dx,
                                                        bool need_dhx, bool need_dweights) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("gru_ext::gru_bwd", "").typed<decltype(gru_bwd)>();
  return op.call(dy, dh_n, x, hx, weights, batch_sizes, bidirectional, y, gates, need_dx, need_dhx, need_dweights);
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

TORCH_LIBRARY(gru_ext, m) {
  m.set_python_module("gru_ext.autograd");
  m.def(
      "gru(Tensor x, Tensor? hx, Tensor[] weights, Tensor? batch_sizes, bool bidirectional)"
      " -> (Tensor y, Tensor h_n)");
  m.def(
      "gru_fwd(Tensor x, Tensor? hx, Tensor[] weights, Tensor? batch_sizes, bool bidirectional, bool save_gates)"
      " -> (Tensor y, Tensor h_n, Tensor gates)");
  m.def(
      "gru_bwd(Tensor? dy, Tensor? dh_n, Tensor x, Tensor? hx, Tensor[] weights, Tensor? batch_sizes,"
      " bool bidirectional, Tensor y, Tensor gates, bool need_dx, bool need_dhx, bool need_dweights)"
      " -> (Tensor dx, Tensor dhx, Tensor[] dweights)");
}

TORCH_LIBRARY_IMPL(gru_ext, CompositeImplicitAutograd, m) { m.impl("gru", gru_ext::gru); }

TORCH_LIBRARY_IMPL(gru_ext, CPU, m) {
  m.impl("gru_fwd", gru_ext::gru_fwd_cpu);
  m.impl("gru_bwd", gru_ext::gru_bwd_cpu);
}

TORCH_LIBRARY_IMPL(gru_ext, CUDA, m) {
#if defined(GRU_EXT_WITH_CUDA)
  m.impl("gru_fwd", gru_ext::gru_fwd_cuda);
  m.impl("gru_bwd", gru_ext::gru_bwd_cuda);
#else
  m.impl("gru_fwd", torch::CppFunction::makeFromBoxedFunction<&gru_ext::no_cuda_kernels>());
  m.impl("gru_bwd", torch::CppFunction::makeFromBoxedFunction<&gru_ext::no_cuda_kernels>());
#endif
  m.impl("gru_int8", torch::CppFunction::makeFromBoxedFunction<&gru_ext::no_int8_cuda_kernels>());
}
