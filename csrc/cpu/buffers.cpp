#include "buffers.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/Allocator.h>
#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <list>
#include <mutex>
#include <new>

namespace gru_ext {
namespace {

constexpr size_t kLargePage = size_t{1} << 21;
constexpr size_t kSmallest = size_t{1} << 20;
constexpr size_t kMostKept = size_t{512} << 20;

// Keeps freed buffers, the oldest first. Never destroyed: tensors may outlive every static object.
class BufferPool final : public c10::Allocator {
 public:
  static BufferPool& get() {
    static BufferPool& pool = *new BufferPool;
    return pool;
  }

  c10::DataPtr allocate(size_t bytes) override {
    const size_t size = rounded(bytes);
    void* data = take(size);
    if (data == nullptr) {
      const bool allocated = posix_memalign(&data, kLargePage, size) == 0;
      TORCH_CHECK_WITH(OutOfMemoryError, allocated, "gru_ext: no memory for a buffer of ", size, " bytes");
      madvise(data, size, MADV_HUGEPAGE);  // only advice: may fail
    }
    return {data, new Buffer{data, size}, &give_back, c10::Device(c10::DeviceType::CPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }  // the context of a DataPtr is not its data
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }

 private:
  struct Buffer {
    void* data;
    size_t size;
  };

  // A forked child must not find the lock held by a thread that it does not have.
  BufferPool() {
    pthread_atfork([] { get().mutex_.lock(); }, [] { get().mutex_.unlock(); }, [] { get().mutex_.unlock(); });
  }

  // Sizes are rounded up by an eighth at most, so that nearly equal calls share buffers.
  static size_t rounded(size_t bytes) {
    size_t step = kSmallest / 16;
    while (step * 16 <= bytes) step *= 2;
    return (bytes + step - 1) / step * step;
  }

  void* take(size_t size) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto newest = std::find_if(kept_.rbegin(), kept_.rend(), [&](const Buffer& b) { return b.size == size; });
    if (newest == kept_.rend()) return nullptr;
    void* data = newest->data;
    kept_.erase(std::next(newest).base());
    kept_bytes_ -= size;
    return data;
  }

  static void give_back(void* context) {
    const Buffer buffer = *static_cast<Buffer*>(context);
    delete static_cast<Buffer*>(context);
    BufferPool& pool = get();
    std::list<Buffer> dropped;
    {
      const std::lock_guard<std::mutex> lock(pool.mutex_);
      pool.kept_.push_back(buffer);
      pool.kept_bytes_ += buffer.size;
      while (pool.kept_bytes_ > kMostKept) {
        pool.kept_bytes_ -= pool.kept_.front().size;
        dropped.splice(dropped.end(), pool.kept_, pool.kept_.begin());
      }
    }
    for (const Buffer& old : dropped) std::free(old.data);
  }

  std::mutex mutex_;
  std::list<Buffer> kept_;
  size_t kept_bytes_ = 0;
};

}  // namespace

at::Tensor pooled_empty(at::IntArrayRef shape, const at::TensorOptions& options) {
  const size_t bytes = c10::multiply_integers(shape) * options.dtype().itemsize();
#if defined(__SANITIZE_ADDRESS__)
  // No pool, whose buffers are not freed and have no redzones; and NaN, so that what is read unwritten shows.
  const at::Tensor unwritten = at::empty(shape, options);
  std::memset(unwritten.data_ptr(), 0xff, bytes);
  return unwritten;
#endif
  if (bytes < kSmallest) return at::empty(shape, options);
  return at::detail::empty_generic(shape, &BufferPool::get(), c10::DispatchKeySet(c10::DispatchKey::CPU),
                                   options.dtype().toScalarType(), std::nullopt);
}

}  // namespace gru_ext
