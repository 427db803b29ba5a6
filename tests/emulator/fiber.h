// Fibers: stacks of their own between which one thread of the CPU switches.
// On x86-64 by hand, which is quick; elsewhere, or with -DGRU_EMULATOR_UCONTEXT, by the C library's ucontext.
#pragma once

#include <cstddef>

#if !defined(__x86_64__) && !defined(GRU_EMULATOR_UCONTEXT)
#define GRU_EMULATOR_UCONTEXT
#endif
#if defined(GRU_EMULATOR_UCONTEXT)
#include <ucontext.h>
#endif

namespace gru_ext::emulator {

class Fiber {
 public:
#if defined(__SANITIZE_ADDRESS__)
  static constexpr size_t kStackBytes = 256 * 1024;  // redzones around every variable
#else
  static constexpr size_t kStackBytes = 64 * 1024;
#endif

#if defined(GRU_EMULATOR_UCONTEXT)
  using Context = ucontext_t;
#else
  using Context = void*;  // the stack pointer
#endif

  // On its first `resume` the fiber calls `entry`, which must not return.
  void start(char* stack, void (*entry)());
  // Runs the fiber until it pauses. Called from outside of fibers.
  void resume();
  // Returns to the caller of `resume`; called from within the fiber that runs.
  static void pause();

 private:
  char* stack_;
  Context context_;
};

}  // namespace gru_ext::emulator
