// One flag for each thread, on a cache line of its own: how many steps it has finished.
#pragma once

#include <sched.h>

#include <atomic>
#include <cstdint>
#include <vector>

namespace gru_ext {

class StepBarrier {
 public:
  explicit StepBarrier(int threads) : flags_(threads) {}

  // Says that `thread` has finished `steps` steps.
  void finished(int thread, int64_t steps) { flags_[thread].steps.store(steps, std::memory_order_release); }

  // Returns when all of the `threads` have finished `steps` steps. Spins for some microseconds, then yields, so that
  // more threads than cores are slow but not stuck.
  void wait(int thread, int threads, int64_t steps) {
    for (int other = 0; other < threads; ++other) {
      if (other == thread) continue;
      for (int spins = 0; flags_[other].steps.load(std::memory_order_acquire) < steps; ++spins) {
        if (spins < kSpins) {
          pause();
        } else {
          sched_yield();
        }
      }
    }
  }

 private:
  static constexpr int kSpins = 4000;

  struct alignas(64) Flag {
    std::atomic<int64_t> steps{0};
  };

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  std::vector<Flag> flags_;
};

}  // namespace gru_ext
