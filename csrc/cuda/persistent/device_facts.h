// What the persistent kernels need to know of each device, and the one thing that they tell: a wait took too long.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <string>

#include "cuda/persistent/entry.h"

namespace gru_ext {

// The word that a kernel sets where a wait took too long, and then ends without results; null if the current device has
// none.
int* error_word();
// Whether one has, since this was asked last.
bool take_error();
// Throws if one of an earlier call on the current device has. No persistent kernel serves there from then on.
void check_waits();

// How long a wait inside a persistent kernel may take, by the clock of wait_clock.h.
uint32_t wait_limit();
// The operator of src/gru_ext/kernel_choice.py; returns the seconds before.
double set_cuda_wait_limit(double seconds);

// What entry.resident() has said of the current device, which is asked once for each kernel; where it has not been
// asked yet, it is now.
int resident_of(const PersistentEntry& entry);

// Of the current device; no other thread looks at one as long as this lives.
class LockedDevice {
 public:
  LockedDevice();

  bool has_error_word() const;
  double clock_rate() const;  // in cycles a second
  // Why no persistent kernel serves any more; empty while they do.
  const std::string& fault() const;
  // What entry.resident() says, or has said; none where that cannot be had now: while a CUDA graph is captured no
  // kernel is loaded, and loading takes memory.
  std::optional<int> resident(const PersistentEntry& entry, bool capturing);

 private:
  const std::lock_guard<std::mutex> lock_;
  struct DeviceFacts& facts_;
};

}  // namespace gru_ext
