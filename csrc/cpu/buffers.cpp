#include "cpu/buffers.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/Allocator.h>
#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <list>
#include <memory>
#include <mutex>
#include <utility>

namespace gru_ext {
namespace {

constexpr size_t kLargePage = size_t{1} << 21;
constexpr size_t kSmallest = size_t{1} << 20;
constexpr size_t kMostKept = size_t{512} << 20;

struct Free {
  void operator()(void* data) const { std::free(data); }
};

struct Buffer {
  std::unique_ptr<void, Free> data;
  size_t size;
};

// An element of a list can go to another list without an allocation. So each buffer in use is the one element of a list
// of its own: a tensor is freed where nothing may throw, and perhaps for the reason that there is no memory.
using Buffers = std::list<Buffer>;

// Keeps freed buffers, the oldest first.
class BufferPool final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    const size_t size = rounded(bytes);
    auto buffer = std::make_unique<Buffers>();
    take(size, *buffer);
    if (buffer->empty()) {
      buffer->push_back({allocated(size), size});
      TORCH_CHECK_WITH(OutOfMemoryError, buffer->front().data != nullptr, "gru_ext: no memory for a buffer of ", size,
                       " bytes");
    }
    void* data = buffer->front().data.get();
    return {data, buffer.release(), &give_back, c10::Device(c10::DeviceType::CPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }  // the context of a DataPtr is not its data
  void copy_data(void* to, const void* from, size_t bytes) const override {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }

  size_t empty() {
    Buffers dropped;
    const std::lock_guard<std::mutex> lock(mutex_);
    dropped.swap(kept_);
    return std::exchange(kept_bytes_, 0);
  }

  std::mutex& mutex() { return mutex_; }

 private:
  // Sizes are rounded up by an eighth at most, so that nearly equal calls share buffers.
  static size_t rounded(size_t bytes) {
    size_t step = kSmallest / 16;
    while (step * 16 <= bytes) step *= 2;
    return (bytes + step - 1) / step * step;
  }

  static std::unique_ptr<void, Free> allocated(size_t size) {
    void* data = nullptr;
    if (posix_memalign(&data, kLargePage, size) != 0) return nullptr;
    madvise(data, size, MADV_HUGEPAGE);  // only advice: may fail
    return std::unique_ptr<void, Free>(data);
  }

  // Moves the newest buffer of this size to `target`, if there is one.
  void take(size_t size, Buffers& target) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto newest = std::find_if(kept_.rbegin(), kept_.rend(), [&](const Buffer& b) { return b.size == size; });
    if (newest == kept_.rend()) return;
    target.splice(target.end(), kept_, std::next(newest).base());
    kept_bytes_ -= size;
  }

  static void give_back(void* context);

  std::mutex mutex_;
  Buffers kept_;
  size_t kept_bytes_ = 0;
};

// Never destroyed: tensors may outlive every static object.
BufferPool& pool = *new BufferPool;

void BufferPool::give_back(void* context) {
  const std::unique_ptr<Buffers> buffer(static_cast<Buffers*>(context));
  Buffers dropped;
  const std::lock_guard<std::mutex> lock(pool.mutex_);
  pool.kept_bytes_ += buffer->front().size;
  pool.kept_.splice(pool.kept_.end(), *buffer);
  while (pool.kept_bytes_ > kMostKept) {
    pool.kept_bytes_ -= pool.kept_.front().size;
    dropped.splice(dropped.end(), pool.kept_, pool.kept_.begin());
  }
}

// A forked child must not find the lock held by a thread that it does not have.
[[maybe_unused]] const int registered =
    pthread_atfork([] { pool.mutex().lock(); }, [] { pool.mutex().unlock(); }, [] { pool.mutex().unlock(); });

}  // namespace

std::vector<at::Tensor> pooled_like(at::TensorList tensors) {
  std::vector<at::Tensor> result;
  for (const at::Tensor& tensor : tensors) result.push_back(pooled_empty(tensor.sizes(), tensor.options()));
  return result;
}

int64_t empty_pool() { return static_cast<int64_t>(pool.empty()); }

at::Tensor pooled_empty(at::IntArrayRef shape, const at::TensorOptions& options) {
  const size_t bytes = c10::multiply_integers(shape) * options.dtype().itemsize();
#if defined(__SANITIZE_ADDRESS__)
  // No pool, whose buffers are not freed and have no redzones; and NaN, so that what is read unwritten shows.
  const at::Tensor unwritten = at::empty(shape, options);
  if (bytes > 0) std::memset(unwritten.data_ptr(), 0xff, bytes);
  return unwritten;
#endif
  if (bytes < kSmallest) return at::detail::empty_cpu(shape, options);  // at::empty takes 0.2 us to get there
  return at::detail::empty_generic(shape, &pool, c10::DispatchKeySet(c10::DispatchKey::CPU),
                                   options.dtype().toScalarType(), std::nullopt);
}

}  // namespace gru_ext
