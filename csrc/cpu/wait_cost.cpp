#include "cpu/wait_cost.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <map>
#include <mutex>
#include <optional>

#include "cpu/step_barrier.h"
#include "cpu/threads.h"

namespace gru_ext {
namespace {

using Clock = std::chrono::steady_clock;
using Microseconds = std::chrono::duration<double, std::micro>;

constexpr auto kKnownFor = std::chrono::seconds(1);
constexpr int kPartOfTime = 100;  // of which a measurement takes at most one
constexpr double kUsualCost = 0.75;

// A state that threads exchange: 8 rows of 64 units, a value for each cache line.
struct State {
  static constexpr int kLines = 32;
  struct alignas(64) Line {
    std::atomic<int> value{0};
  };
  Line lines[kLines];
};

double measure(int threads) {
  constexpr int kSteps = 64;
  constexpr Microseconds kLongest{500};
  State states[2];
  StepBarrier barrier(threads);
  std::array<double, kSteps> times;
  int timed = 0;
  std::atomic<int> last_step{kSteps};
  Clock::time_point begin;
  run_threads(threads, [&](int thread, int team) {
    // The first step is not timed: it waits for threads that wake.
    for (int step = 0; step <= last_step.load(); ++step) {
      const auto start = Clock::now();
      State& state = states[step % 2];
      for (int line = thread; line < State::kLines; line += team) state.lines[line].value.store(step);
      if (thread == 0 && step == 1) begin = start;
      if (thread == 0 && step > 0 && start - begin > kLongest) last_step.store(step);
      barrier.finished(thread, step + 1);
      barrier.wait(thread, team, step + 1);
      for (const State::Line& line : state.lines) line.value.load();
      if (thread == 0 && step > 0) times[timed++] = Microseconds(Clock::now() - start).count();
    }
  });
  // Steps that took too long in all say what a core costs that is not free, which the median would leave out.
  if (last_step.load() < kSteps) return Microseconds(Clock::now() - begin).count() / timed;
  std::nth_element(times.begin(), times.begin() + kSteps / 2, times.end());
  return times[kSteps / 2];
}

// GRU_EXT_CPU_WAIT, if it is set.
std::optional<double> read_cost() {
  const char* given = std::getenv("GRU_EXT_CPU_WAIT");
  if (given == nullptr || *given == '\0') return std::nullopt;
  char* end = nullptr;
  const double cost = std::strtod(given, &end);
  TORCH_CHECK_VALUE(*end == '\0' && std::isfinite(cost) && cost > 0,
                    "gru_ext: expected the environment variable GRU_EXT_CPU_WAIT to be microseconds above 0, got ",
                    given);
  return cost;
}

std::optional<double> given_cost() {
  static const std::optional<double> given = read_cost();
  return given;
}

}  // namespace

double usual_wait_cost() { return given_cost().value_or(kUsualCost); }

bool wait_cost_is_given() { return given_cost().has_value(); }

double wait_cost(int threads) {
  if (given_cost().has_value()) return *given_cost();
  struct Known {
    double cost;
    Clock::time_point until;
  };
  static std::mutex mutex;
  static std::map<int, Known> known;  // by threads
  const std::lock_guard lock(mutex);
  const auto now = Clock::now();
  Known& of_threads = known[threads];
  if (now >= of_threads.until) {
    of_threads.cost = measure(threads);
    const auto end = Clock::now();
    of_threads.until = end + std::max<Clock::duration>(kKnownFor, kPartOfTime * (end - now));
  }
  return of_threads.cost;
}

}  // namespace gru_ext
