// How every backend's operators reach their kernels: below what torch does around operators, by dtype.
#pragma once

#include <ATen/autocast_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/ScalarType.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

namespace gru_ext {

// The operators call at:: for memory and, on GPUs, products; none of these calls may be recorded for autograd or cast
// by autocast again.
struct BelowAutogradAndAutocast {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  c10::impl::ExcludeDispatchKeyGuard below_autocast{c10::autocast_dispatch_keyset};
};

// What `body` returns for a value of the type that holds `dtype`, which check.cpp has admitted.
template <typename Body>
auto with_scalar_type(at::ScalarType dtype, const Body& body) {
  switch (dtype) {
    case at::kFloat:
      return body(float{});
    case at::kDouble:
      return body(double{});
    case at::kBFloat16:
      return body(c10::BFloat16{});
    default:
      return body(c10::Half{});
  }
}

}  // namespace gru_ext
