// What was measured of kernels, by kind of call: in memory, and in a file that outlives the process and that several
// processes may share.
#pragma once

#include <string>
#include <vector>

namespace gru_ext {

struct Timing {
  std::string kernel;  // its name; "stepwise"
  double seconds;
};
using Timings = std::vector<Timing>;  // the fastest first; "stepwise" is one of them

// Whether calls of a kind that was not measured yet are to be.
bool autotunes();

// The operator of src/gru_ext/kernel_choice.py. Forgets what is in memory, then reads `path`, and adds to it what is
// measured from then on; an empty path: memory alone.
void autotune(bool enable, std::string path);

// Of calls of a kind, which is a word or several without tabs; empty if they were not measured.
Timings timings_of(const std::string& kind);
void keep_timings(const std::string& kind, Timings timings);

}  // namespace gru_ext
