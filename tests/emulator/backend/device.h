// The device that the host side finds under emulation. Tests set it, see emulate() in operators.cpp.
#pragma once

#include <deque>

namespace gru_ext {
namespace emulator {

struct EmulatedDevice {
  int index = 0;            // what is known of a device is known of this one
  int multiprocessors = 0;  // that clusters have to share; 0: none fits
  int refusals = 0;         // launches of cluster kernels still to be refused
  int spoiled = 0;          // launches of cluster kernels that still leave a wrong value
  int launches = 0;         // of cluster kernels, so far
  int block_launches = 0;   // of all others
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

}  // namespace emulator
}  // namespace gru_ext
