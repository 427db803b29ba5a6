// The CPU backend with results that the caller allocated: of one layer, or of a member of several that run together.
#pragma once

#include "cpu/arranged.h"
#include "op/check.h"
#include "op/layer.h"

namespace gru_ext {

// Floating point operations of a step of one direction: of its input product, and of the recurrent one, either way.
inline double input_flops(const Sequence& s) { return 6.0 * s.B * s.H * s.I; }
inline double recurrent_flops(const Sequence& s) { return 6.0 * s.B * s.H * s.H; }

// Operations on vectors that take as long as a step of one direction, also where its products run on tiles: they decide
// how many threads it is worth.
double fwd_vector_flops(const Sequence& s, at::ScalarType dtype, const ArrangedWeights* arranged = nullptr);
double bwd_vector_flops(const Sequence& s, at::ScalarType dtype);

// What a call of one direction would take on a machine with more cores: the parts of its threads, each run by itself,
// in turn, on the calling thread. The results of such a call mean nothing.
struct Rehearsal {
  int threads;                      // in: of the team
  int together;                     // in: neighbouring threads whose cores share a cache
  double wait;                      // in: microseconds of a wait, for the choice of the grid
  double serial = 0;                // out: seconds of what one thread does for all
  double longest = 0;               // out: of the longest thread of each part of the work
  double average = 0;               // out: of all threads of each part, by their number
  int64_t parts = 0;                // out: that all threads have
  double read = 0;                  // out: bytes that a thread reads from other caches, the most of all threads
  int row_groups = 1, members = 1;  // out: the grid
};

// As gru_fwd_cpu and gru_bwd_cpu (op_cpu.h), of a checked call, into `results`: contiguous, and of shape (0) where not
// saved or not needed; gates may be undefined too, and y of the forward may have any strides between its rows. Of y,
// dy, h_n and dhx, those of a block (op/blocks.h) are views that begin at its columns, in rows of all_H units a
// direction. `arranged`: the weights of each direction, which the layer then has not.
void gru_fwd_cpu_into(const Sequence& s, const Layer& layer, const FwdResult& results,
                      const ArrangedWeights* arranged = nullptr, Rehearsal* rehearsal = nullptr);
void gru_bwd_cpu_into(const Sequence& s, const Backward& call, const BwdResult& results,
                      Rehearsal* rehearsal = nullptr);

}  // namespace gru_ext
