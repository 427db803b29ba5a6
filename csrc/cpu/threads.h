// How the CPU backend runs on several threads: torch's own OpenMP pool, of torch's own size.
#pragma once

#include <cstdint>
#include <functional>

namespace gru_ext {

// Threads for `steps` steps of `flops` floating-point operations each: at most torch.get_num_threads(), fewer where a
// thread's part of a step would be shorter than the wait for the others; 1 where all the steps together are not worth
// waking a thread, inside another parallel region, and in a forked child, whose pool did not survive the fork.
int threads_for(int64_t steps, double flops);

// Of `threads` as many as save more than their waits for each other cost, as measured (wait_cost.h), where there is one
// after every `flops` operations. Not for results whose bits depend on the number of threads.
int threads_that_pay(int threads, double flops);

// Calls body(thread, threads) on each of `threads` threads at once, or of as many as the OpenMP runtime gives.
void run_threads(int threads, const std::function<void(int, int)>& body);

}  // namespace gru_ext
