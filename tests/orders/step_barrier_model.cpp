// Runs csrc/cpu/step_barrier.* in every order of its threads (orders.h), as steps use it.
//
//   step_barrier_model THREADS STEPS PREEMPTIONS
//
// A fault: threads that all sleep, or one that reads what another has not written yet, or has written over.
#include <chrono>
#include <optional>

#include "orders.h"

#define atomic ModelAtomic
#define syscall model::syscall
#include "cpu/step_barrier.cpp"
#undef syscall
#undef atomic

namespace {

int steps;
std::optional<gru_ext::StepBarrier> barrier;
std::vector<int> exchanged[2];  // of each thread, the step after which it wrote this, in the copy of even and odd steps

// As recurrence_body.h uses the barrier: in a step, what all threads wrote in the step before is read, and the other of
// two copies written.
void work() {
  const int self = model::running, count = static_cast<int>(model::threads.size());
  for (int step = 0; step < steps; ++step) {
    barrier->wait(self, count, step);
    for (int other = 0; other < count; ++other) {
      if (exchanged[step % 2][other] != step) model::fault = "a thread reads what is not of the step before";
      model::access();
    }
    exchanged[(step + 1) % 2][self] = step + 1;
    barrier->finished(self, step + 1);
  }
  model::finish();
}

}  // namespace

int main(int, char** arguments) {
  const int count = std::atoi(arguments[1]);
  steps = std::atoi(arguments[2]);
  const auto begin = [&] {
    barrier.emplace(count);
    for (std::vector<int>& copy : exchanged) copy.assign(count, 0);
  };
  return model::run_all_orders(count, std::atoi(arguments[3]), begin, work);
}
