// How members (op/members.h) and blocks (op/blocks.h) share the threads.
#pragma once

#include <ATen/Parallel.h>

#include <cstdint>

#include "cpu/threads.h"
#include "op/check.h"
#include "op/dispatch.h"

namespace gru_ext {

// Calls `body` with every member: with as many at the same time as there are threads; those that remain one after
// another where each is worth more threads than they are. `flops`: of a step of one direction.
template <typename Body>
void for_each_member(int64_t E, const Sequence& s, double flops, const Body& body) {
  const int threads = threads_for(/*steps=*/1, static_cast<double>(E) * s.D * s.T * flops);
  const int64_t remaining = E % threads;
  const int64_t together = threads == 1 ? 0 : remaining < threads_for(s.T, flops) ? E - remaining : E;
  at::parallel_for(0, together, /*grain_size=*/1, [&](int64_t begin, int64_t end) {
    const BelowAutogradAndAutocast below;  // the caller's guard holds for its own thread alone
    for (int64_t e = begin; e < end; ++e) body(e);
  });
  for (int64_t e = together; e < E; ++e) body(e);
}

}  // namespace gru_ext
