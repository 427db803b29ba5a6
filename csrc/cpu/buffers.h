// Memory of the CPU backend: large buffers that are used again, and several small arrays in one.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace gru_ext {

// An uninitialised tensor. The system hands out large buffers page by page, zeroed at the first touch, which can cost
// as much as what is computed in them; so those of 1 MiB and more come, in large pages, from a pool that keeps freed
// ones, 512 MiB at most.
at::Tensor pooled_empty(at::IntArrayRef shape, const at::TensorOptions& options);
// One for each tensor, of its shape and dtype.
std::vector<at::Tensor> pooled_like(at::TensorList tensors);

// Gives the kept buffers back to the system. Returns their bytes.
int64_t empty_pool();

// Arrays in one buffer: first all are reserved, then the buffer is allocated, which gives them their addresses. A small
// buffer is part of the object, which must stay where it is: to allocate memory takes as long as a short step.
// AddressSanitizer sees an access between two of them: there is a gap after each, which nobody may touch.
class Workspace {
 public:
  // Room for `count` values of T, aligned to a cache line: `array` is set to their address by `allocate`.
  template <typename T>
  void reserve(T*& array, int64_t count) {
    static_assert(std::is_trivially_copyable_v<T>);
    const size_t bytes = count * sizeof(T);
    arrays_.at(count_++) = {&array, size_, bytes};
    size_ += (bytes + kLine - 1) / kLine * kLine + kGap;
  }
  void allocate() {
    char* begin = within_;
    if (kGap > 0 || size_ > sizeof within_) {
      buffer_ = pooled_empty({static_cast<int64_t>(size_ + kLine)}, at::TensorOptions(at::kByte));
      begin = aligned(buffer_.data_ptr());
    }
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(buffer_.data_ptr(), buffer_.numel());
#endif
    for (size_t i = 0; i < count_; ++i) {
      char* const address = begin + arrays_[i].place;
      std::memcpy(arrays_[i].pointer, &address, sizeof address);
#if defined(__SANITIZE_ADDRESS__)
      __asan_unpoison_memory_region(address, arrays_[i].bytes);
#endif
    }
  }

 private:
  static constexpr size_t kLine = 64;
#if defined(__SANITIZE_ADDRESS__)
  static constexpr size_t kGap = kLine;
#else
  static constexpr size_t kGap = 0;
#endif
  struct Array {
    void* pointer;  // where its address goes
    size_t place, bytes;
  };
  static char* aligned(void* address) {
    const auto begin = reinterpret_cast<uintptr_t>(address);
    return reinterpret_cast<char*>((begin + kLine - 1) / kLine * kLine);
  }

  std::array<Array, 24> arrays_;  // no vector: that would be memory to allocate
  size_t count_ = 0, size_ = 0;
  alignas(kLine) char within_[16384];
  at::Tensor buffer_;
};

}  // namespace gru_ext
