// csrc/cuda/device.cu for the emulated device.
#include "device.h"

#include <c10/cuda/CUDAFunctions.h>
#include <c10/util/Exception.h>

#include <chrono>

#include "cuda/device.h"

namespace c10::cuda {

int current_device() { return gru_ext::emulator::device.index; }

}  // namespace c10::cuda

namespace gru_ext {

namespace emulator {
EmulatedDevice device;
bool guarded = false;

void check_stream(void* stream) {
  TORCH_CHECK(guarded, "emulated device: a launch without a guard for the device of the tensors");
  TORCH_CHECK(stream == reinterpret_cast<void*>(kStream), "emulated device: a launch on another stream than the",
              " current one of that device");
}
}  // namespace emulator

std::string device_name() { return "emulated"; }

double measure_seconds(Stream stream, const std::function<void()>& work) {
  emulator::check_stream(stream);
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

bool is_capturing(Stream stream) {
  emulator::check_stream(stream);
  return emulator::device.capturing;
}

SharedWord new_shared_word() {
  int* const word = new int(0);  // for as long as the process lives, as in device.cu
  return {word, word};
}

}  // namespace gru_ext
