// The device that the host side finds under emulation. Tests set it, see emulate() in operators.cpp.
#pragma once

#include <cstdint>
#include <deque>

namespace gru_ext::emulator {

struct EmulatedDevice {
  int index = 0;              // what is known of a device is known of this one
  int multiprocessors = 0;    // that clusters have to share; 0: none fits
  int refusals = 0;           // launches of cluster kernels still to be refused
  int spoiled = 0;            // launches of cluster kernels that still leave a wrong value
  int spoiled_result = 0;     // which result that is in: forward h_n, y, gates; backward dh0, dgates, dbias
  double spoil = 100;         // what is added to its first value
  int launches = 0;           // of cluster kernels, so far
  int block_launches = 0;     // of all others
  int rows = 0;               // of the batch of the last launch of a cluster kernel
  bool masked = false;        // whether that had masks
  int members = 0;            // of it
  double wait_seconds = 0;    // which a wait of it may take
  int* error = nullptr;       // its word for a wait that takes too long
  int* late_error = nullptr;  // that of a launch which still runs: so it will be, when the next one begins
  bool capturing = false;
  bool has_shared_memory = true;  // enough for streamed kernels
  int architecture = 90;          // that the kernels were compiled for
  int shared_bytes = 227 << 10;   // that a block may have
  int residency_queries = 0;      // how often the host side asked how many clusters of a kernel run at a time
  int no_memory = 0;              // times that there is no memory left for a launch of a cluster kernel
  bool throws_no_memory = false;  // whether torch finds out, or the launch
  std::deque<double> seconds;  // that the next measurements find; where there are none left, what the host's clock says
  int measurements = 0;        // so far
};
extern EmulatedDevice device;

// The stream that is current on the device of a call's tensors: what the host side finds under a guard for that device,
// and where every kernel has to be launched. Without the guard it finds another device's.
constexpr uintptr_t kStream = 0x57, kStreamOfOtherDevice = 0x0d;
extern bool guarded;

// Throws unless a launch is under a guard and on that stream.
void check_stream(void* stream);

}  // namespace gru_ext::emulator
