#include "op/forked_child.h"

#include <ATen/Parallel.h>
#include <omp.h>
#include <pthread.h>

#include <atomic>

namespace gru_ext {
namespace {

// Known from the moment that the library is loaded: the parent may have used torch's threads, and never ours.
std::atomic<bool> is_forked_child{false};
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { is_forked_child = true; });

}  // namespace

bool in_forked_child() { return is_forked_child; }

OneThreadInForkedChild::OneThreadInForkedChild() : threads_before_(in_forked_child() ? at::get_num_threads() : 1) {
  if (threads_before_ == 1) return;
  at::internal::lazy_init_num_threads();  // the first parallel_for of a thread would set the number anew
  omp_set_num_threads(1);
}

OneThreadInForkedChild::~OneThreadInForkedChild() {
  if (threads_before_ > 1) omp_set_num_threads(threads_before_);
}

}  // namespace gru_ext
