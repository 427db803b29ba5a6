#include "cpu/cache.h"

#include <unistd.h>

#include <algorithm>

namespace gru_ext {
namespace {

// What depends on it was fitted for 1 MiB, on processors that have that or half of it. A larger one than the most is
// one that several cores share.
constexpr int64_t kLeast = kUsualCache, kMost = int64_t{4} << 20;

int64_t second_level() {
#if defined(_SC_LEVEL2_CACHE_SIZE)
  return sysconf(_SC_LEVEL2_CACHE_SIZE);
#else
  return 0;
#endif
}

}  // namespace

int64_t cache_of_core() {
  static const int64_t bytes = std::clamp(second_level(), kLeast, kMost);
  return bytes;
}

}  // namespace gru_ext
