// What the host asks of the current device, by CUDA's runtime (device.cu). No headers of CUDA or torch, so that the
// host side compiles, and runs under emulation, without CUDA.
#pragma once

#include <cstring>
#include <functional>
#include <string>

namespace gru_ext {

using Stream = void*;  // a cudaStream_t

// What went wrong with a launch for which there was no memory left.
constexpr char kOutOfMemory[] = "out of memory";
inline bool is_out_of_memory(const char* error) { return std::strcmp(error, kOutOfMemory) == 0; }

std::string device_name();
// Cycles of its multiprocessors a second; 0 if it does not tell.
double clock_rate();
// Whether it has products in bfloat16: sm_80 and later.
bool multiplies_bfloat16();
// Whether launches on the stream are recorded into a CUDA graph.
bool is_capturing(Stream stream);
// Time that the stream takes for `work`, which the host gives it at every call: the least of five, after a first one
// that is not counted. Waits for the stream. NaN if it cannot be told.
double measure_seconds(Stream stream, const std::function<void()>& work);
// A word of the host's memory that kernels of this device may write to, zero at first. `host` is null if there is none.
struct SharedWord {
  volatile int* host;
  int* device;  // the same, as the device names it
};
SharedWord new_shared_word();

}  // namespace gru_ext
