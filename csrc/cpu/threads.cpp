#include "cpu/threads.h"

#include <ATen/Parallel.h>
#include <omp.h>

#include <algorithm>

#include "op/forked_child.h"

namespace gru_ext {
namespace {

// 0.5 us of a core at 100 GFLOP/s: some times the 0.05 to 0.1 us that a wait for another thread costs.
constexpr double kStepFlopsPerThread = 5e4;
// 5 us: some times what it costs to wake a thread that has not gone to sleep yet. Of one row's step that is a megabyte
// of float weights: more than a core's own cache holds, so that a second core's pays.
constexpr double kFlopsPerCall = 5e5;

}  // namespace

int threads_for(int64_t steps, double flops) {
  if (steps * flops < kFlopsPerCall || omp_in_parallel() || at::in_parallel_region() || in_forked_child()) return 1;
  return static_cast<int>(std::clamp(flops / kStepFlopsPerThread, 1.0, static_cast<double>(at::get_num_threads())));
}

void run_threads(int threads, const std::function<void(int, int)>& body) {
  if (threads == 1) {
    body(0, 1);
    return;
  }
#pragma omp parallel num_threads(threads)
  body(omp_get_thread_num(), omp_get_num_threads());
}

}  // namespace gru_ext
