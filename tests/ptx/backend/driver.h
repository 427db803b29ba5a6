// What the stand-in for CUDA's runtime has beyond launches: events, captures, memory, and calls that fail when a test
// says so.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <utility>

namespace cudart {

struct Driver {
  int64_t calls = 0;             // of the runtime's functions, but for those that read and name errors
  int64_t calls_of_kernels = 0;  // those among them that need a kernel: questions about it, and launches
  // The first and the last call that each place in the code has made.
  std::map<const void*, std::pair<int64_t, int64_t>> of_places;
  int64_t fails_at = 0;      // the number of the call that fails; 0: none
  bool no_memory = false;    // why it does; else for a reason that has no name
  int64_t left = 0;          // errors that a call has left behind and that nobody has taken
  bool capturing = false;    // the only stream
  bool elsewhere = false;    // whether another thread captures a stream of its own
  bool invalidated = false;  // whether a call has been made that a capture forbids
  bool forgets = false;      // attributes of kernels: as if nobody had set them
  bool unloads = false;      // kernels whose attributes are asked for: as if that loaded none
  // That the next pairs of events are apart; where there are none left, by the host's clock.
  std::deque<double> seconds;
};
extern Driver driver;

}  // namespace cudart
