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

// Arrays in one buffer: first all are reserved, then the buffer is allocated, then they have addresses. A small buffer
// is part of the object, which must stay where it is: to allocate memory takes as long as a short step.
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
#if !defined(__SANITIZE_ADDRESS__)
    begin_ = within_;
    if (size_ <= sizeof within_) return;
#endif
    buffer_ = pooled_empty({static_cast<int64_t>(size_ + kLine)}, at::TensorOptions(at::kByte));
    begin_ = aligned(buffer_.data_ptr());
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(buffer_.data_ptr(), buffer_.numel());
    for (const auto& [place, bytes] : arrays_) __asan_unpoison_memory_region(at<char>(place), bytes);
#endif
  }
  template <typename T>
  T* at(size_t place) const {
    return reinterpret_cast<T*>(begin_ + place);
  }

 private:
  static constexpr size_t kLine = 64;
  static char* aligned(void* address) {
    const auto begin = reinterpret_cast<uintptr_t>(address);
    return reinterpret_cast<char*>((begin + kLine - 1) / kLine * kLine);
  }

  size_t size_ = 0;
  alignas(kLine) char within_[16384];
  char* begin_ = nullptr;
  at::Tensor buffer_;
#if defined(__SANITIZE_ADDRESS__)
  std::vector<std::pair<size_t, size_t>> arrays_;  // place and bytes of each
#endif
};

}  // namespace gru_ext
