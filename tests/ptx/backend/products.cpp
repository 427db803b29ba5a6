// csrc/cuda/products.cpp, where CPU tensors go the way of those on CUDA: torch multiplies 16 bits into float there
// alone, so here is a product for the CPU that does.
#include <ATen/ATen.h>
#include <torch/library.h>

#include "cuda/device.h"
#include "cuda/products.h"

#define is_cuda is_cpu
#include "cuda/products.cpp"
#undef is_cuda

int64_t mixed_products = 0;  // so far

// In float, by a weight as the stepwise kernels multiply by it.
at::Tensor product(const at::Tensor& a, const at::Tensor& weight) {
  const at::Tensor out = at::empty({a.size(0), weight.size(0)}, a.options().dtype(at::kFloat));
  gru_ext::product_out(out, a, gru_ext::product_operand(weight).t());
  return out;
}

namespace {

// Of matrices, or of those of all members.
template <at::Tensor& (*product_out)(at::Tensor& out, const at::Tensor& a, const at::Tensor& b)>
at::Tensor& mixed_product_out(const at::Tensor& a, const at::Tensor& b, at::ScalarType dtype, at::Tensor& out) {
  TORCH_CHECK(at::isReducedFloatingType(a.scalar_type()) && a.scalar_type() == b.scalar_type() && dtype == at::kFloat &&
                  out.scalar_type() == dtype,
              "CUDA multiplies 16 bits into float alone");
  ++mixed_products;
  return product_out(out, a.to(dtype), b.to(dtype));
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, CPU, m) {
  m.impl("mm.dtype_out", &mixed_product_out<at::mm_out>);
  m.impl("bmm.dtype_out", &mixed_product_out<at::bmm_out>);
}
