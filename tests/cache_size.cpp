// Preloaded: the second level of the caches has as many bytes as the environment variable CACHE_BYTES says.
#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>

extern "C" __attribute__((visibility("default"))) long sysconf(int name) noexcept {
  static const auto real = reinterpret_cast<long (*)(int)>(dlsym(RTLD_NEXT, "sysconf"));
  const char* const bytes = name == _SC_LEVEL2_CACHE_SIZE ? std::getenv("CACHE_BYTES") : nullptr;
  return bytes == nullptr ? real(name) : std::atol(bytes);
}
