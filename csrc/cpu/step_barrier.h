// One flag for each thread, on a cache line of its own: how many steps it has finished.
#pragma once

#include <sched.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <utility>
#include <vector>

namespace gru_ext {

class StepBarrier {
 public:
  explicit StepBarrier(int threads) : flags_(threads) {}

  // Says that `thread` has finished `steps` steps.
  void finished(int thread, int64_t steps) { flags_[thread].steps.store(steps, std::memory_order_release); }

  // Returns when all of the `threads` have finished `steps` steps. Spins for some microseconds, then yields: with more
  // threads than free cores the others may not be running at all.
  void wait(int thread, int threads, int64_t steps) {
    for (int other = 0; other < threads; ++other) {
      if (other == thread || reached(other, steps)) continue;
      for (int spins = 0; spins < kSpins && !reached(other, steps); ++spins) pause();
      if (!reached(other, steps)) yield_until(thread, other, steps);
    }
  }

  // Whether, since the last call, the threads spent more than half of `elapsed` yielding: then one thread alone is
  // faster than several that wait for cores.
  bool crowded(std::chrono::nanoseconds elapsed) {
    std::chrono::nanoseconds yielded{0};
    for (Flag& flag : flags_) yielded += std::exchange(flag.yielded, std::chrono::nanoseconds{0});
    return 2 * yielded > elapsed;
  }

 private:
  static constexpr int kSpins = 2000;

  struct alignas(64) Flag {
    std::atomic<int64_t> steps{0};
    std::chrono::nanoseconds yielded{0};  // written by the flag's own thread
  };

  bool reached(int other, int64_t steps) const { return flags_[other].steps.load(std::memory_order_acquire) >= steps; }

  void yield_until(int thread, int other, int64_t steps) {
    const auto start = std::chrono::steady_clock::now();
    while (!reached(other, steps)) sched_yield();
    flags_[thread].yielded += std::chrono::steady_clock::now() - start;
  }

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  std::vector<Flag> flags_;
};

}  // namespace gru_ext
