#include "cpu/threads.h"

#include <ATen/Parallel.h>
#include <omp.h>

#include <algorithm>

#include "cpu/isa.h"
#include "cpu/wait_cost.h"
#include "op/forked_child.h"

namespace gru_ext {
namespace {

// 0.5 us of a core at 100 GFLOP/s: some times the 0.05 to 0.1 us that a wait for another thread costs.
constexpr double kStepFlopsPerThread = 5e4;
// 5 us: some times what it costs to wake a thread that has not gone to sleep yet. Of one row's step that is a megabyte
// of float weights: more than a core's own cache holds, so that a second core's pays.
constexpr double kFlopsPerCall = 5e5;
// A thread's part of the work between two waits, in waits: half of it is what the second thread saves.
constexpr double kWaitsOfWork = 3;

// What a core computes of small products.
double flops_per_microsecond() {
  if (cpu_isa() >= CpuIsa::avx512) return 1e5;
  return cpu_isa() >= CpuIsa::avx2 ? 5e4 : 2.5e4;
}

}  // namespace

int threads_for(int64_t steps, double flops) {
  if (steps * flops < kFlopsPerCall || omp_in_parallel() || at::in_parallel_region() || in_forked_child()) return 1;
  return static_cast<int>(std::clamp(flops / kStepFlopsPerThread, 1.0, static_cast<double>(at::get_num_threads())));
}

int threads_that_pay(int threads, double flops) {
  if (threads == 1) return 1;
  const double waits = flops / flops_per_microsecond() / wait_cost(threads);
  return static_cast<int>(std::clamp(waits / kWaitsOfWork, 1.0, static_cast<double>(threads)));
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
