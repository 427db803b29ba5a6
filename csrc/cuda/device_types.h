// The kernels' names of torch's dtypes.
#pragma once

#include <ATen/core/Tensor.h>

#include "cuda/params.h"

namespace gru_ext {

// The storage type of T in kernels, and the type that they compute in.
template <typename T>
struct Device {
  using scalar_t = T;
  using acc_t = T;
};
template <>
struct Device<c10::Half> {
  using scalar_t = device::float16;
  using acc_t = float;
};
template <>
struct Device<c10::BFloat16> {
  using scalar_t = device::bfloat16;
  using acc_t = float;
};

inline at::ScalarType acc_dtype_of(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }

template <typename T>
auto* device_pointer(T* p) {
  return reinterpret_cast<typename Device<T>::scalar_t*>(p);
}
template <typename T>
auto* device_pointer(const T* p) {
  return reinterpret_cast<const typename Device<T>::scalar_t*>(p);
}

}  // namespace gru_ext
