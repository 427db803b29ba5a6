// Runs code that threads share in every order in which its threads may be scheduled, up to a number of preemptions: of
// its atomics, whose order is sequentially consistent, each access may be followed by that of another thread. Threads
// are fibers; the futex is one that this file has. As CHESS does (Musuvathi and Qadeer 2007), whose authors found that
// few preemptions show nearly every fault.
//
// To use it: include the standard headers that the code names; then, after `#define atomic ModelAtomic` and `#define
// syscall model::syscall`, its sources. Make its spins few: each is an access.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
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
  const void* sleeps_on = nullptr;  // the word of a futex, or what sleep_on() was given
  bool done = false;
};
std::vector<Thread> threads;
int running = 0;
const char* fault = nullptr;

// One order: which of the threads that can run goes on after each access. The next order is the last one with its last
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

void sleep_on(const void* word) {
  threads[running].sleeps_on = word;
  Fiber::pause();
}
void wake_all(const void* word) {
  for (Thread& thread : threads) {
    if (thread.sleeps_on == word) thread.sleeps_on = nullptr;
  }
}

long syscall(long, uint32_t* word, int operation, uint32_t value, void*, void*, int) {
  access();
  if (operation == FUTEX_WAKE_PRIVATE) {
    wake_all(word);
  } else if (*word == value) {
    sleep_on(word);
  }
  return 0;
}

// A thread ends here.
[[noreturn]] void finish() {
  threads[running].done = true;
  for (;;) Fiber::pause();
}

// Runs work() on each thread in one order; false if there is a fault.
bool run_order(void (*work)(), int preemptions) {
  const int count = static_cast<int>(threads.size());
  for (Thread& thread : threads) {
    thread.sleeps_on = nullptr;
    thread.done = false;
    thread.fiber.start(thread.stack.get(), work);
  }
  place = 0;
  int left = preemptions;
  const auto can_run = [](const Thread& thread) { return !thread.done && thread.sleeps_on == nullptr; };
  static std::vector<int> options;  // the thread that runs first: to go on costs no preemption
  for (int current = 0;;) {
    options.clear();
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

// Calls begin() and then runs work() on each of so many threads, for every order. Prints the number of orders, or the
// fault; the exit status.
template <typename Begin>
int run_all_orders(int count, int preemptions, const Begin& begin, void (*work)()) {
  threads = std::vector<Thread>(count);
  long orders = 0;
  do {
    ++orders;
    begin();
    if (!run_order(work, preemptions)) {
      std::printf("%s, in order %ld\n", fault, orders);
      return 1;
    }
  } while (next_order());
  std::printf("%ld orders\n", orders);
  return 0;
}

}  // namespace model

namespace std {

// In place of std::atomic; of its memory orders the code that is modelled uses the strongest alone.
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
  bool compare_exchange_weak(T& expected, T value) {
    model::access();
    if (value_ != expected) return expected = value_, false;
    value_ = value;
    return true;
  }

 private:
  T value_;
};

}  // namespace std
