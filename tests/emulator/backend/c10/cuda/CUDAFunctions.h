// In place of torch's: the device that the test has chosen, see ../../device.h.
#pragma once

#include "device.h"

namespace c10 {
namespace cuda {

inline int current_device() { return gru_ext::emulator::device.index; }

}  // namespace cuda
}  // namespace c10
