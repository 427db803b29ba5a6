// The threads of one call: one parallel region, in which the calling thread hands out part after part.
#pragma once

#include <c10/util/FunctionRef.h>

#include <cstdint>

#include "cpu/step_barrier.h"
#include "cpu/threads.h"

namespace gru_ext {

// The runtime's threads spin for milliseconds at the end of each region and before the next, also where that keeps the
// thread that they wait for from its core. These spin for a fraction of one and then sleep; and to hand out a part
// takes a fraction of what a region takes.
class Crew {
 public:
  explicit Crew(int threads) : barrier_(threads) {}

  // Threads, the calling one among them. Where each part is a region of its own: the most that it gets.
  int size() const { return size_; }
  // Calls part(thread, size) on each of them at once; returns when all are done. For the calling thread of
  // `lead_threads` alone. No part may throw: others may be in it still.
  template <typename Part>
  void run(const Part& part) noexcept {
    if (in_own_regions_) return run_threads(size_, part);
    call_ = [](const void* given, int thread, int size) { (*static_cast<const Part*>(given))(thread, size); };
    part_ = &part;
    barrier_.finished(0, ++parts_);
    part(0, size_);
    for (int other = 1; other < size_; other += other < kTogether ? 1 : kTogether) {
      barrier_.wait_for(0, other, parts_, kSpins);
    }
  }

 private:
  friend void lead_threads(int threads, c10::function_ref<void(Crew&)> lead, bool few_parts);
  // A begin of a part takes the calling thread some microseconds; the parts of threads differ by as many.
  static constexpr int kSpins = 10 * StepBarrier::kSpins;
  // The first of so many neighbouring threads says for all of them when they are done: of 64, the calling thread looks
  // at 14 flags.
  static constexpr int kTogether = 8;

  void serve(int thread);
  void dismiss();

  void (*call_)(const void* part, int thread, int size) = nullptr;
  const void* part_ = nullptr;
  int64_t parts_ = 0;
  int size_ = 1;
  bool in_own_regions_ = false;
  StepBarrier barrier_;  // a part is a step: the calling thread finishes it as it hands it out
};

// Calls lead(crew) on the calling thread, with a crew of `threads`, or of as many as the OpenMP runtime gives.
// `few_parts`: each part is then a region of its own, which costs less where there is one part.
void lead_threads(int threads, c10::function_ref<void(Crew&)> lead, bool few_parts = false);

}  // namespace gru_ext
