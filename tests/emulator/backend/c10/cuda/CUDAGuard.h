// In place of torch's: under emulation there is no device to be current.
#pragma once

#include <c10/core/Device.h>

namespace c10 {
namespace cuda {

struct CUDAGuard {
  explicit CUDAGuard(Device) {}
};

}  // namespace cuda
}  // namespace c10
