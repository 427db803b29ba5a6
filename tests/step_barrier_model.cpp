// Runs csrc/cpu/step_barrier.* in every order in which its threads may be scheduled, up to a number of preemptions: of
// its atomics, whose order is sequentially consistent, each access may be followed by that of another thread. Threads
// are fibers; the futex is one that this file has. As CHESS does (Musuvathi and Qadeer 2007), whose authors found that
// few preemptions show nearly every fault.
//
// The test that compiles this has made its spins few: each is an access.
//
//   step_barrier_model THREADS STEPS PREEMPTIONS
//
// prints the number of orders, or the fault: threads that all sleep, or one that reads what another has not written
// yet, or has written over.
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <climits>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

#include "fiber.h"

namespace model {

using gru_ext::emulator::Fiber;

struct Thread {
  Fiber fiber;
  std::unique_ptr<char[]> stack{new char[Fiber::kStackBytes]};
  const void* sleeps_on = nullptr;  // a futex's word
  bool done = false;
};
std::vector<Thread> threads;
int running = 0;

// One order: at each access, which of those threads that can go on does. The next order is the last one with its last
// choice that has another option changed to that.
struct Choice {
  int taken, options;
};
std::vector<Choice> order;
size_t place = 0;

int choose(int options) {
  if (place == order.size()) order.push_back({0, options});
  return order[place++].taken;
}

bool next_order() {
  while (!order.empty() && order.back().taken + 1 == order.back().options) order.pop_back();
  if (order.empty()) return false;
  ++order.back().taken;
  return true;
}

// Before every access to what threads share.
void access() { Fiber::pause(); }

long syscall(long, uint32_t* word, int operation, uint32_t value, void*, void*, int) {
  access();
  if (operation == FUTEX_WAKE_PRIVATE) {
    for (Thread& thread : threads) {
      if (thread.sleeps_on == word) thread.sleeps_on = nullptr;
    }
  } else if (*word == value) {
    threads[running].sleeps_on = word;
    Fiber::pause();
  }
  return 0;
}

}  // namespace model

namespace std {

// In place of std::atomic; of its memory orders the barrier uses the strongest alone.
template <typename T>
class ModelAtomic {
 public:
  ModelAtomic(T value) : value_(value) {}
  T load() const {
    model::access();
    return value_;
  }
  void store(T value) {
    model::access();
    value_ = value;
  }
  T fetch_add(T value) {
    model::access();
    return exchange(value_, value_ + value);
  }
  T fetch_sub(T value) { return fetch_add(-value); }

 private:
  T value_;
};

}  // namespace std

#define atomic ModelAtomic
#define syscall model::syscall
#include "cpu/step_barrier.cpp"
#undef syscall
#undef atomic

namespace model {

int steps, preemptions;
gru_ext::StepBarrier* barrier;
std::vector<int> exchanged[2];  // of each thread, the step after which it wrote this, in the copy of even and odd steps
const char* fault = nullptr;

// As recurrence_body.h uses the barrier: in a step, what all threads wrote in the step before is read, and the other of
// two copies written.
void work() {
  const int self = running, count = static_cast<int>(threads.size());
  for (int step = 0; step < steps; ++step) {
    barrier->wait(self, count, step);
    for (int other = 0; other < count; ++other) {
      if (exchanged[step % 2][other] != step) fault = "a thread reads what is not of the step before";
      access();
    }
    exchanged[(step + 1) % 2][self] = step + 1;
    barrier->finished(self, step + 1);
  }
  threads[self].done = true;
  for (;;) Fiber::pause();
}

// Runs the threads in one order; false if there is a fault.
bool run_order() {
  const int count = static_cast<int>(threads.size());
  gru_ext::StepBarrier fresh(count);
  barrier = &fresh;
  exchanged[0].assign(count, 0);
  exchanged[1].assign(count, 0);
  for (Thread& thread : threads) {
    thread.sleeps_on = nullptr;
    thread.done = false;
    thread.fiber.start(thread.stack.get(), work);
  }
  place = 0;
  int left = preemptions;
  const auto can_run = [](const Thread& thread) { return !thread.done && thread.sleeps_on == nullptr; };
  for (int current = 0;;) {
    std::vector<int> options;  // the thread that runs first: to go on costs no preemption
    if (can_run(threads[current])) options.push_back(current);
    for (int i = 0; i < count; ++i) {
      if (i != current && can_run(threads[i]) && (left > 0 || !can_run(threads[current]))) options.push_back(i);
    }
    if (options.empty()) break;
    const int chosen = options[choose(static_cast<int>(options.size()))];
    if (chosen != current && can_run(threads[current])) --left;
    current = running = chosen;
    threads[current].fiber.resume();
    if (fault != nullptr) return false;
  }
  for (const Thread& thread : threads) {
    if (!thread.done) fault = "the threads sleep, and nobody wakes them";
  }
  return fault == nullptr;
}

}  // namespace model

int main(int, char** arguments) {
  model::threads = std::vector<model::Thread>(std::atoi(arguments[1]));
  model::steps = std::atoi(arguments[2]);
  model::preemptions = std::atoi(arguments[3]);
  long orders = 0;
  do {
    ++orders;
    if (!model::run_order()) {
      std::printf("%s, in order %ld\n", model::fault, orders);
      return 1;
    }
  } while (model::next_order());
  std::printf("%ld orders\n", orders);
}
