// csrc/cuda/device.cu for the emulated device.
#include "device.h"

#include <c10/cuda/CUDAFunctions.h>

#include <chrono>

#include "launchers.h"

namespace c10 {
namespace cuda {

int current_device() { return gru_ext::emulator::device.index; }

}  // namespace cuda
}  // namespace c10

namespace gru_ext {

namespace emulator {
EmulatedDevice device;
}

std::string device_name() { return "emulated"; }

double measure_seconds(Stream, const std::function<void()>& work) {
  emulator::EmulatedDevice& device = emulator::device;
  ++device.measurements;
  const auto begin = std::chrono::steady_clock::now();
  work();
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
  if (device.seconds.empty()) return elapsed.count();
  const double seconds = device.seconds.front();
  device.seconds.pop_front();
  return seconds;
}

double clock_rate() { return 1e9; }

bool multiplies_bfloat16() { return emulator::device.architecture >= 80; }

bool is_capturing(Stream) { return emulator::device.capturing; }

SharedWord new_shared_word() {
  int* const word = new int(0);  // for as long as the process lives, as in device.cu
  return {word, word};
}

}  // namespace gru_ext
