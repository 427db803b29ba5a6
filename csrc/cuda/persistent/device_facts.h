// What the persistent kernels need to know of each device, and the one thing that they tell: a wait took too long.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "cuda/persistent/entry.h"

namespace gru_ext {

// Throws if a kernel of an earlier call has set DeviceFacts::error on the current device. No persistent kernel serves
// there from then on.
void check_waits();

// How long a wait inside a persistent kernel may take, by the clock of wait_clock.h.
uint32_t wait_limit();
// The operator of src/gru_ext/kernel_choice.py; returns the seconds before.
double set_cuda_wait_limit(double seconds);

// What entry.resident() has said of the current device, which is asked once for each kernel; where it has not been
// asked yet, it is now.
int resident_of(const PersistentEntry& entry);

struct DeviceFacts {
  double clock_rate;  // in cycles a second
  // Set by a kernel where a wait took too long: it then ends without results. Null while there is no memory for it.
  SharedWord error = {};
  std::map<const PersistentEntry*, int> resident = {};
  std::string fault = {};  // why no persistent kernel serves any more; empty while they do
};

// The facts of the current device; no other thread looks at one's as long as this lives.
class LockedDevice {
  const std::lock_guard<std::mutex> lock_;

 public:
  DeviceFacts& facts;

  LockedDevice();
  // What entry.resident() says, or has said; none where that cannot be had now: while a CUDA graph is captured no
  // kernel is loaded, and loading takes memory.
  std::optional<int> resident(const PersistentEntry& entry, bool capturing);
};

}  // namespace gru_ext
