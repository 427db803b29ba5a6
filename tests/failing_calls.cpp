// Preloaded: the n-th call of a function of the C library fails, as it may on any machine. `fail_nth(what, n)` arms it.
//
//   memory       posix_memalign of any library, which is what tensors take, and operator new of libgru_ext alone: what
//                Python and torch do where a few bytes are missing is theirs
//   allocation   every allocation of the whole process
//   files        open for writing, write, fsync and rename of a file, of the whole process
//
// All other calls are the real ones.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdlib>
#include <cstring>
#include <new>

namespace {

enum What { none, memory, write_, rename_, open_, fsync_, allocation };
std::atomic<int> armed{none};
std::atomic<long> left{0}, seen{0};

// Whether this call is the one that fails. The first after it is again a real one.
bool fails(What what) {
  if (armed.load(std::memory_order_relaxed) != what) return false;
  ++seen;
  return --left == 0;
}
// The same of a call that says why by errno.
bool fails(What what, int why) {
  if (!fails(what)) return false;
  errno = why;
  return true;
}

template <typename Function>
Function real(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

// Whether the code that called is in the library that is tested.
bool is_ours(void* caller) {
  Dl_info info;
  return dladdr(caller, &info) != 0 && info.dli_fname != nullptr &&
         std::strstr(info.dli_fname, "libgru_ext") != nullptr;
}

}  // namespace

#define PUBLIC extern "C" __attribute__((visibility("default")))

PUBLIC void fail_nth(int what, long n) {
  seen = 0;
  left = n;
  armed = what;
}
// Calls of the armed kind since then.
PUBLIC long calls_seen() { return seen; }

// The real ones by the names that glibc has for them: to look for a symbol allocates.
PUBLIC void* __libc_malloc(size_t size);
PUBLIC void* __libc_calloc(size_t count, size_t size);
PUBLIC void* __libc_realloc(void* old, size_t size);
PUBLIC void* __libc_memalign(size_t alignment, size_t size);

PUBLIC void* malloc(size_t size) noexcept { return fails(allocation) ? nullptr : __libc_malloc(size); }
PUBLIC void* calloc(size_t count, size_t size) noexcept {
  return fails(allocation) ? nullptr : __libc_calloc(count, size);
}
PUBLIC void* realloc(void* old, size_t size) noexcept {
  return fails(allocation) ? nullptr : __libc_realloc(old, size);
}
PUBLIC void* memalign(size_t alignment, size_t size) noexcept {
  return fails(allocation) ? nullptr : __libc_memalign(alignment, size);
}
PUBLIC void* aligned_alloc(size_t alignment, size_t size) noexcept { return memalign(alignment, size); }

PUBLIC int posix_memalign(void** target, size_t alignment, size_t size) noexcept {
  void* const data = fails(memory) ? nullptr : memalign(alignment, size);
  if (data == nullptr) return ENOMEM;
  *target = data;
  return 0;
}

void* operator new(size_t size) {
  const bool counts = armed.load(std::memory_order_relaxed) == memory && is_ours(__builtin_return_address(0));
  void* const data = counts && fails(memory) ? nullptr : std::malloc(size > 0 ? size : 1);
  if (data == nullptr) throw std::bad_alloc();
  return data;
}
void operator delete(void* data) noexcept { std::free(data); }
void operator delete(void* data, size_t) noexcept { std::free(data); }

PUBLIC ssize_t write(int file, const void* data, size_t size) {
  static const auto call = real<ssize_t (*)(int, const void*, size_t)>("write");
  if (file > 2 && fails(write_, ENOSPC)) return -1;
  return call(file, data, size);
}

// As the C++ library writes to a file.
PUBLIC ssize_t writev(int file, const iovec* data, int count) {
  static const auto call = real<ssize_t (*)(int, const iovec*, int)>("writev");
  if (file > 2 && fails(write_, ENOSPC)) return -1;
  return call(file, data, count);
}

PUBLIC int fsync(int file) {
  static const auto call = real<int (*)(int)>("fsync");
  if (fails(fsync_, EIO)) return -1;
  return call(file);
}

PUBLIC int rename(const char* from, const char* to) {
  static const auto call = real<int (*)(const char*, const char*)>("rename");
  if (fails(rename_, EIO)) return -1;
  return call(from, to);
}

PUBLIC int open(const char* path, int flags, ...) {
  static const auto call = real<int (*)(const char*, int, ...)>("open");
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  if ((flags & O_ACCMODE) != O_RDONLY && fails(open_, EACCES)) return -1;
  return call(path, flags, mode);
}

PUBLIC int open64(const char* path, int flags, ...) __attribute__((alias("open")));
