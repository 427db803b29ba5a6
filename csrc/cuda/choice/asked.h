// What src/gru_ext/kernel_choice.py asks for, and is told.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <tuple>
#include <vector>

#include "cuda/choice/time_model.h"

namespace gru_ext {

// What use_cuda_kernels asks for: "auto", a family or a kernel.
std::string asked_for(Pass pass);

// Throws if it asks for others, where only the stepwise kernels compute what a call is for: layer_norm, and the reset
// gate before the product.
void check_stepwise_may_serve(Pass pass);

// The operators: `cuda_kernel` returns name and reason, `cuda_kernel_names` those of all persistent kernels,
// `use_cuda_kernels` what it was told before.
std::tuple<std::string, std::string> cuda_kernel(at::ScalarType dtype, int64_t T, int64_t B, int64_t H,
                                                 bool bidirectional, bool packed, bool keeps_gates, bool backward,
                                                 bool masked, int64_t members);
std::vector<std::string> cuda_kernel_names(at::ScalarType dtype, bool backward);
std::tuple<std::string, std::string> use_cuda_kernels(std::string forward, std::string backward);

}  // namespace gru_ext
