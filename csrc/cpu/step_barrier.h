// How threads wait for each other between time steps: one flag for each, on a cache line of its own, that says how many
// steps it has finished.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <utility>
#include <vector>

namespace gru_ext {

class StepBarrier {
 public:
  // Times that a thread looks before it sleeps: some microseconds, the time that a step's imbalance takes.
  static constexpr int kSpins = 1000;

  explicit StepBarrier(int threads) : flags_(threads > 1 ? threads : 0) {}

  // Says that `thread` has finished `steps` steps.
  void finished(int thread, int64_t steps) {
    if (flags_.empty()) return;  // nobody waits; the store would drain all earlier ones
    Flag& flag = flags_[thread];
    flag.steps.store(static_cast<uint32_t>(steps));
    if (flag.sleepers.load() > 0) wake(flag);
  }

  // Returns when all of the `threads` have finished `steps` steps. Spins; then sleeps: with fewer free cores than
  // threads the others may be waiting for this very core.
  void wait(int thread, int threads, int64_t steps) {
    for (int other = 0; other < threads; ++other) {
      if (other != thread) wait_for(thread, other, steps);
    }
  }
  // Likewise when `other` has.
  void wait_for(int thread, int other, int64_t steps, int most_spins = kSpins) {
    Flag& flag = flags_[other];
    for (int spins = 0; spins < most_spins; ++spins) {
      if (reached(flag, steps)) return;
      pause();
    }
    sleep_until(flags_[thread], flag, steps);
  }

  // How long the calling thread has slept in any barrier.
  static std::chrono::nanoseconds slept_by_this_thread();

  // Whether, since the last call, all threads but one slept for more than half of `elapsed`, on average: then one
  // thread alone is faster than several that wait for cores.
  bool crowded(std::chrono::nanoseconds elapsed) {
    std::chrono::nanoseconds slept{0};
    for (Flag& flag : flags_) slept += std::exchange(flag.slept, std::chrono::nanoseconds{0});
    return 2 * slept > elapsed * (static_cast<int64_t>(flags_.size()) - 1) && !flags_.empty();
  }

 private:
  struct alignas(64) Flag {
    std::atomic<uint32_t> steps{0};     // modulo 2^32: a futex has 32 bits
    std::atomic<int> sleepers{0};       // threads that sleep until `steps` changes
    std::chrono::nanoseconds slept{0};  // by the flag's own thread
  };

  static bool reached(const Flag& flag, int64_t steps) {
    return static_cast<int32_t>(flag.steps.load() - static_cast<uint32_t>(steps)) >= 0;
  }

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  static void sleep_until(Flag& own, Flag& other, int64_t steps);
  static void wake(Flag& flag);

  std::vector<Flag> flags_;  // none for one thread
};

}  // namespace gru_ext
