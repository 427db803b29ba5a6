// The operator `cast_for_autocast`: a parameter in autocast's dtype, from the cache that autocast keeps while it is on.
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <torch/library.h>

#include "op/registration.h"

namespace gru_ext {
namespace {

at::Tensor cast_for_autocast(const at::Tensor& tensor, at::ScalarType dtype) {
  at::Tensor cast = at::autocast::cached_cast(dtype, tensor, tensor.device().type());
  // What was cast under no_grad, or in inference mode, has no way back to the parameter.
  if (at::GradMode::is_enabled() && tensor.requires_grad() && !cast.requires_grad()) return tensor.to(dtype);
  return cast;
}

}  // namespace
}  // namespace gru_ext

TORCH_LIBRARY_FRAGMENT(gru_ext, m) {
  if (!gru_ext::is_first_copy()) return;
  m.def("cast_for_autocast(Tensor tensor, ScalarType dtype) -> Tensor", gru_ext::cast_for_autocast);
}
