// Memory of the CPU backend: large buffers that are used again, and several small arrays in one.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>

#include <utility>
#include <vector>
#endif

namespace gru_ext {

// An uninitialised tensor. The system hands out large buffers page by page, zeroed at the first touch, which can cost
// as much as what is computed in them; so those of 1 MiB and more come, in large pages, from a pool that keeps freed
// ones, 512 MiB at most.
at::Tensor pooled_empty(at::IntArrayRef shape, const at::TensorOptions& options);

// Gives the kept buffers back to the system. Returns their bytes.
int64_t empty_pool();

// Arrays in one buffer: first all are reserved, then the buffer is allocated, then they have addresses.
// AddressSanitizer sees an access between two of them: there is a gap after each, which nobody may touch.
class Workspace {
 public:
  // The place of `count` values of T, aligned to a cache line.
  template <typename T>
  size_t reserve(int64_t count) {
    static_assert(std::is_trivially_copyable_v<T>);
    const size_t place = size_, bytes = count * sizeof(T);
    size_ += (bytes + kLine - 1) / kLine * kLine;
#if defined(__SANITIZE_ADDRESS__)
    size_ += kLine;
    arrays_.emplace_back(place, bytes);
#endif
    return place;
  }
  void allocate() {
    buffer_ = pooled_empty({static_cast<int64_t>(size_ + kLine)}, at::TensorOptions(at::kByte));
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(buffer_.data_ptr(), buffer_.numel());
    for (const auto& [place, bytes] : arrays_) __asan_unpoison_memory_region(at<char>(place), bytes);
#endif
  }
  template <typename T>
  T* at(size_t place) const {
    const auto begin = reinterpret_cast<uintptr_t>(buffer_.data_ptr());
    return reinterpret_cast<T*>((begin + kLine - 1) / kLine * kLine + place);
  }

 private:
  static constexpr size_t kLine = 64;
  size_t size_ = 0;
  at::Tensor buffer_;
#if defined(__SANITIZE_ADDRESS__)
  std::vector<std::pair<size_t, size_t>> arrays_;  // place and bytes of each
#endif
};

}  // namespace gru_ext
