// How members (op/members.h) and blocks (op/blocks.h) share the threads, and the memory for their results.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <cstdint>
#include <vector>

#include "cpu/buffers.h"
#include "cpu/threads.h"
#include "op/check.h"
#include "op/dispatch.h"

namespace gru_ext {

// Memory for the results of a forward of so many members or blocks: they are the first dimension of the gates.
inline FwdResult new_results(const Sequence& s, const Layer& layer, bool save_gates, int64_t count) {
  const auto options = layer.x.options();
  std::vector<int64_t> y_shape = layer.x.sizes().vec();
  y_shape.back() = s.D * s.all_H;
  std::vector<int64_t> gates_shape = {0};
  if (save_gates) gates_shape = layer.variant.gates_shape(s.D, s.N, s.H);
  gates_shape.insert(gates_shape.begin(), count);
  return {pooled_empty(y_shape, options), at::empty(s.shape({s.D, s.B, s.all_H}), options),
          pooled_empty(gates_shape, options)};
}

// Calls `body` with every member: with as many at the same time as there are threads; those that remain one after
// another where each is worth more threads than they are. `flops`: of a step of one direction, as on vectors.
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
