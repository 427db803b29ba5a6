// In place of torch's: the device that the test has chosen.
#pragma once

namespace c10::cuda {

int current_device();

}  // namespace c10::cuda
