// What the forward and the backward of a layer share: how threads go through its directions and chunks of time steps.
//
// A pass is one direction of a layer. It is run chunk by chunk: `begin` prepares a chunk, `run` is one thread's part of
// it. A chunk is one parallel region.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

#include "cpu/arranged.h"
#include "cpu/isa.h"
#include "cpu/kernels/kernels.h"
#include "cpu/step_barrier.h"
#include "cpu/threads.h"
#include "op/check.h"
#include "op/chunks.h"
#include "op/dispatch.h"

namespace gru_ext {

// `tensor`, or a copy of it whose rows are contiguous.
inline at::Tensor with_contiguous_rows(const at::Tensor& tensor) {
  return tensor.stride(-1) == 1 ? tensor : tensor.contiguous();
}

// Runs `body` on the threads. Where they mostly waited for cores that other programs hold, `threads` becomes 1.
template <typename Body>
void run_chunk(int& threads, c10::ArrayRef<StepBarrier*> barriers, const Body& body) {
  const auto start = std::chrono::steady_clock::now();
  run_threads(threads, body);
  if (threads == 1) return;
  const auto elapsed = std::chrono::steady_clock::now() - start;
  for (StepBarrier* barrier : barriers) {
    if (barrier->crowded(elapsed)) threads = 1;
  }
}

// Runs passes at the same time, each on its share of `threads` threads, or of one.
template <typename Pass>
void run_together(c10::ArrayRef<Pass*> passes, int threads) {
  const int count = static_cast<int>(passes.size());
  // Calls `part` with each pass on each of its threads.
  const auto divided = [&](const auto& part) {
    return [&passes, count, &part](int thread, int team) {
      for (int i = 0; i < count; ++i) {
        if (team < count) {
          part(*passes[i], thread, team);
          continue;
        }
        const int begin = team * i / count, end = team * (i + 1) / count;
        if (begin <= thread && thread < end) part(*passes[i], thread - begin, end - begin);
      }
    };
  };
  const auto pack = [](Pass& pass, int thread, int team) { pass.pack(thread, team); };
  const auto run = [](Pass& pass, int thread, int team) { pass.run(thread, team); };
  std::vector<StepBarrier*> barriers;
  for (Pass* pass : passes) barriers.push_back(&pass->barrier());
  if (passes[0]->packs()) run_threads(threads, divided(pack));
  for (size_t chunk = 0; chunk < passes[0]->chunks(); ++chunk) {
    for (Pass* pass : passes) pass->begin(chunk);
    int still_free = threads;
    run_chunk(still_free, barriers, divided(run));
    if (!passes[0]->sums_across_threads()) threads = still_free;
  }
  for (Pass* pass : passes) pass->finish();
}

// Whether the directions of a layer run at the same time: where one alone would leave threads idle, or have them wait
// for each other in every step although its weights fit into the cache of one core. `flops`: of a step of one
// direction.
inline bool runs_side_by_side(const Sequence& s, double flops) {
  const bool pays = s.D == 2 && threads_for(/*steps=*/1, 2.0 * s.T * flops) > 1;
  return pays && (threads_for(s.T, flops) == 1 || 3 * s.H * (s.H + s.I) * 4 <= kCacheOfCore);
}

// Runs the passes of all directions of a layer. `flops`: of a step of one direction.
template <typename Pass, typename Tensors>
void run_layer(const Sequence& s, const Tensors& tensors, double flops) {
  const bool side_by_side = runs_side_by_side(s, flops);
  int threads = std::max(threads_for(s.T, flops), side_by_side ? 2 : 1);
  // Of two directions that have a thread each, neither waits before the end.
  if (!s.has_gains) threads = threads_that_pay(threads, side_by_side && threads == 2 ? s.T * flops : flops);
  if (side_by_side) {
    Pass first(s, tensors, 0, threads), second(s, tensors, 1, threads);
    return run_together<Pass>({&first, &second}, threads);
  }
  for (int64_t d = 0; d < s.D; ++d) {
    Pass pass(s, tensors, d, threads);
    run_together<Pass>({&pass}, threads);
  }
}

// A layer's masks, contiguous.
class LayerMasks {
 public:
  explicit LayerMasks(const Variant& variant)
      : variant_(variant),
        zoneout_(contiguous(variant.zoneout_mask)),
        candidate_(contiguous(variant.candidate_mask)),
        recurrent_(contiguous(variant.recurrent_mask)) {}

  template <typename acc_t>
  DirectionMasks<acc_t> of(const Sequence& s, int64_t direction) const {
    const auto part = [&](const at::Tensor& mask, int64_t rows) {
      return mask.defined() ? mask.const_data_ptr<bool>() + direction * rows * s.H : nullptr;
    };
    return {variant_.has_masks(),
            part(zoneout_, s.N),
            part(candidate_, s.N),
            part(recurrent_, s.B),
            static_cast<acc_t>(variant_.zoneout),
            static_cast<acc_t>(1 / (1 - variant_.candidate_dropout)),
            static_cast<acc_t>(1 / (1 - variant_.recurrent_dropout))};
  }

 private:
  static at::Tensor contiguous(const std::optional<at::Tensor>& mask) {
    return mask.has_value() ? mask->contiguous() : at::Tensor();
  }

  const Variant& variant_;
  const at::Tensor zoneout_, candidate_, recurrent_;
};

// Calls `body` with values of the types that hold tensors of `dtype` and the operands of their products.
template <typename Body>
void with_scalar_and_operand_type(at::ScalarType dtype, const Body& body) {
  with_scalar_type(dtype, [&](auto zero) {
    using scalar_t = decltype(zero);
#if defined(__x86_64__)
    if constexpr (std::is_same_v<scalar_t, c10::BFloat16>) {
      if (multiplies_bf16()) return body(zero, c10::BFloat16{});
    }
#endif
    body(zero, acc_type<scalar_t>{});
  });
}

}  // namespace gru_ext
