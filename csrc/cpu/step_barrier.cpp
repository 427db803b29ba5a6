#include "cpu/step_barrier.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>

namespace gru_ext {
namespace {

thread_local std::chrono::nanoseconds slept_here{0};

long futex(std::atomic<uint32_t>& word, int operation, uint32_t value) {
  static_assert(sizeof(word) == sizeof(uint32_t));
  return syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), operation, value, nullptr, nullptr, 0);
}

}  // namespace

void StepBarrier::sleep_until(Flag& own, Flag& other, int64_t steps) {
  const auto start = std::chrono::steady_clock::now();
  // `sleepers` is raised before `steps` is read, and `finished` writes `steps` before it reads `sleepers`, all in one
  // order: either this thread sees the new value, or the other sees a sleeper and wakes it.
  other.sleepers.fetch_add(1);
  for (uint32_t seen = other.steps.load(); !reached(other, steps); seen = other.steps.load()) {
    futex(other.steps, FUTEX_WAIT_PRIVATE, seen);  // returns at once where the value is no longer `seen`
  }
  other.sleepers.fetch_sub(1);
  const std::chrono::nanoseconds slept = std::chrono::steady_clock::now() - start;
  own.slept += slept;
  slept_here += slept;
}

std::chrono::nanoseconds StepBarrier::slept_by_this_thread() { return slept_here; }

void StepBarrier::wake(Flag& flag) { futex(flag.steps, FUTEX_WAKE_PRIVATE, INT_MAX); }

}  // namespace gru_ext
