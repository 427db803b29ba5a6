// What the host sides have in common: tensors as the kernels' arguments, and the errors of launches.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cstdint>

#include "cuda/device_types.h"

namespace gru_ext {

// Null for an undefined tensor.
template <typename at_t>
auto* readable(const at::Tensor& tensor) {
  return device_pointer(tensor.defined() ? tensor.const_data_ptr<at_t>() : nullptr);
}
template <typename at_t>
auto* writable(const at::Tensor& tensor) {
  return device_pointer(tensor.defined() ? tensor.data_ptr<at_t>() : nullptr);
}

// Whether all rows begin at multiples of so many bytes.
inline bool rows_are_aligned(const at::Tensor& tensor, int64_t bytes) {
  if (reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % bytes != 0) return false;
  for (int64_t i = 0; i + 1 < tensor.dim(); ++i) {
    if (tensor.size(i) > 1 && tensor.stride(i) * tensor.element_size() % bytes != 0) return false;
  }
  return true;
}

// Throws what went wrong with a launch, if something did.
inline void check_launch(const char* error) {
  TORCH_CHECK(error == nullptr, "gru: a CUDA kernel could not be launched: ", error,
              " (gru_ext was built by " GRU_EXT_CUDA_BUILD ")");
}

}  // namespace gru_ext
