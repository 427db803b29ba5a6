// Which kernels serve a call on the current device: those of any family that the time model, or a measurement, says are
// faster than the stepwise ones, and then these, which always can.
#pragma once

#include <string>
#include <vector>

#include "cuda/choice/family.h"

namespace gru_ext {

struct KernelChoice {
  std::vector<Candidate> candidates;  // never empty; each takes the place of the one before it if that fails
  std::string why_stepwise;           // where the first of them is the stepwise kernel
  bool forced = false;                // whether no other kernel may take the place of the one that is asked for
  std::string measured;               // what autotune has measured, in words; empty if the time model has chosen
  std::string kind;  // under which name measurements of such calls are kept; empty if not to be measured
  std::vector<Candidate> to_measure;
};

// By the time model of docs/kernels.md, or as measured where autotune is on; unless use_cuda_kernels has said
// otherwise.
KernelChoice choose_kernels(const KernelQuery& query);

}  // namespace gru_ext
