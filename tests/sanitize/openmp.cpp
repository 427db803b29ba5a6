// What our code asks of OpenMP, by threads of the C++ library, whose start and end ThreadSanitizer sees. Linked into
// the library and hidden there: torch keeps libgomp. Compiled as the rest, so that the detector knows all there is to
// know.
#include <cstddef>
#include <thread>
#include <vector>

namespace {

thread_local int number = 0, team = 1;
thread_local bool parallel = false;

void run(void (*body)(void*), void* data, int thread, int threads) {
  number = thread;
  team = threads;
  parallel = threads > 1;
  body(data);
  number = 0;
  team = 1;
  parallel = false;
}

}  // namespace

#define HIDDEN extern "C" __attribute__((visibility("hidden")))

HIDDEN void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned) {
  const int count = threads == 0 ? 2 : static_cast<int>(threads);
  std::vector<std::thread> others;
  for (int thread = 1; thread < count; ++thread) others.emplace_back(run, body, data, thread, count);
  run(body, data, 0, count);
  for (std::thread& other : others) other.join();
}

HIDDEN int omp_get_thread_num() { return number; }
HIDDEN int omp_get_num_threads() { return team; }
HIDDEN int omp_in_parallel() { return parallel; }
HIDDEN int omp_get_max_threads() { return 2; }
