// Runs csrc/cpu/crew.* in every order of its threads (orders.h): a call that hands out parts.
//
//   crew_model THREADS PARTS PREEMPTIONS
//
// A fault: threads that all sleep; one that runs a part twice, late or not at all; a part that begins, or a call that
// ends, before all threads have done what was handed out before.
#include <time.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <optional>

#include "cpu/crowding.h"
#include "cpu/threads.h"
#include "orders.h"

#define atomic ModelAtomic
#define syscall model::syscall
#include "cpu/crew.cpp"
#include "cpu/step_barrier.cpp"
#undef syscall
#undef atomic

namespace {

int parts;
const c10::function_ref<void(int, int)>* region;  // that of the call, once it has begun
int left_region;                                  // threads that have left it
std::vector<int> done;                            // of each thread, the last part

int count() { return static_cast<int>(model::threads.size()); }

void leave_region() {
  if (++left_region == count()) model::wake_all(&left_region);
}

// What a thread of a part does, with what the calling thread has prepared for it.
void run_part(int thread, int part) {
  model::access();
  if (done[thread] != part - 1) model::fault = "a thread runs a part twice, or leaves one out";
  for (const int last : done) {
    if (last < part - 1) model::fault = "a part begins before the one before is done";
  }
  model::access();
  done[thread] = part;
}

void call(gru_ext::Crew& crew) {
  for (int part = 1; part <= parts; ++part) {
    const int prepared = part;
    crew.run([&](int thread, int) { run_part(thread, prepared); });
    if (*std::min_element(done.begin(), done.end()) < part) model::fault = "a part ends before it is done";
  }
}

void work() {
  if (model::running == 0) {
    gru_ext::lead_threads(count(), call);
  } else {
    if (region == nullptr) model::sleep_on(&region);
    (*region)(model::running, count());
    leave_region();
  }
  model::finish();
}

}  // namespace

namespace gru_ext {

// As OpenMP does: the calling thread's return waits for all.
void run_threads(int, c10::function_ref<void(int, int)> body) {
  region = &body;
  model::wake_all(&region);
  body(0, count());
  leave_region();
  if (left_region < count()) model::sleep_on(&left_region);
}

bool WatchedCall::watches() { return false; }
void WatchedCall::add_stolen(double) {}

}  // namespace gru_ext

int main(int, char** arguments) {
  parts = std::atoi(arguments[2]);
  const auto begin = [] {
    region = nullptr;
    left_region = 0;
    done.assign(count(), 0);
  };
  return model::run_all_orders(std::atoi(arguments[1]), std::atoi(arguments[3]), begin, work);
}
