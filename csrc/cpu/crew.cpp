#include "cpu/crew.h"

#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <optional>

#include "cpu/crowding.h"
#include "cpu/threads.h"

namespace gru_ext {
namespace {

// How long this thread could not compute although it wanted to, as other programs had its core; once it has begun, and
// but for what it took to wake up.
class StolenTime {
 public:
  int64_t nanoseconds() const { return idle() - start_; }

 private:
  static int64_t idle() {
    timespec computed;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &computed);
    const std::chrono::nanoseconds now = std::chrono::steady_clock::now().time_since_epoch();
    return (now - StepBarrier::slept_by_this_thread()).count() - (computed.tv_sec * 1'000'000'000 + computed.tv_nsec);
  }
  const int64_t start_ = idle();
};

}  // namespace

void Crew::serve(int thread) {
  for (int64_t parts = 1;; ++parts) {
    barrier_.wait_for(thread, /*other=*/0, parts, kSpins);
    if (call_ == nullptr) return;
    call_(part_, thread, size_);
    const int end = thread % kTogether == 0 ? std::min(size_, thread + kTogether) : thread;
    for (int other = thread + 1; other < end; ++other) barrier_.wait_for(thread, other, parts, kSpins);
    barrier_.finished(thread, parts);
  }
}

void Crew::dismiss() {
  call_ = nullptr;
  barrier_.finished(0, ++parts_);
}

void lead_threads(int threads, c10::function_ref<void(Crew&)> lead, bool few_parts) {
  Crew crew(threads);
  if (threads == 1) return lead(crew);
  const bool watches = WatchedCall::watches();
  if (few_parts && !watches) {
    crew.size_ = threads;
    crew.in_own_regions_ = true;
    return lead(crew);
  }
  std::exception_ptr error;
  std::atomic<int64_t> most_stolen{0};
  run_threads(threads, [&](int thread, int size) {
    const std::optional<StolenTime> stolen = watches ? std::make_optional<StolenTime>() : std::nullopt;
    if (thread > 0) {
      crew.serve(thread);
    } else {
      crew.size_ = size;
      try {
        lead(crew);
      } catch (...) {
        error = std::current_exception();
      }
      crew.dismiss();
    }
    if (!watches) return;
    const int64_t mine = stolen->nanoseconds();
    for (int64_t most = most_stolen.load(); mine > most && !most_stolen.compare_exchange_weak(most, mine);) {
    }
  });
  if (watches) WatchedCall::add_stolen(1e-9 * most_stolen.load());
  if (error) std::rethrow_exception(error);
}

}  // namespace gru_ext
