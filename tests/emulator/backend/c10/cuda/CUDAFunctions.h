// In place of torch's: the device that the test has chosen.
#pragma once

namespace c10 {
namespace cuda {

int current_device();

}  // namespace cuda
}  // namespace c10
