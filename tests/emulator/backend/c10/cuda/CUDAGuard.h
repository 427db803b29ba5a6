// In place of torch's: all that is seen of it under emulation is whether there is one.
#pragma once

#include <c10/core/Device.h>

#include <utility>

#include "device.h"

namespace c10::cuda {

class CUDAGuard {
 public:
  explicit CUDAGuard(Device) : before_(std::exchange(gru_ext::emulator::guarded, true)) {}
  ~CUDAGuard() { gru_ext::emulator::guarded = before_; }
  CUDAGuard(const CUDAGuard&) = delete;
  CUDAGuard& operator=(const CUDAGuard&) = delete;

 private:
  const bool before_;
};

}  // namespace c10::cuda
