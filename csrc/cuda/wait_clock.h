// The clock that limits how long a block waits for another one.
#pragma once

#include <cstdint>

namespace gru_ext {
namespace device {

// Its unit, in nanoseconds. 32 bits of it last for an hour, and are one register where 64 bits are two: kernels that
// wait have none to spare.
constexpr uint32_t kWaitTick = 1024;

}  // namespace device
}  // namespace gru_ext
