// Whether a kernel gives on the current device what the stepwise kernels give.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "cuda/choice/family.h"

namespace gru_ext {

// A few milliseconds, at the end of which the host waits for the device. Returns nothing, or what is wrong. `device` is
// the current one, `stream` its current stream.
std::string self_test(const Kernel& kernel, Pass pass, at::ScalarType dtype, at::Device device, Stream stream);

}  // namespace gru_ext
