#include "fiber.h"

// ASan is told of every switch, so that it knows which stack it looks at.
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#else
static void __sanitizer_start_switch_fiber(void**, const void*, size_t) {}
static void __sanitizer_finish_switch_fiber(void*, const void**, size_t*) {}
#endif

#if !defined(GRU_EMULATOR_UCONTEXT)
// Saves what the System V calling convention has a callee preserve, and the stack pointer in *save; goes on where
// another such call left `stack_pointer`.
extern "C" void gru_emulator_switch(void** save, void* stack_pointer);
asm(R"(
.text
.type gru_emulator_switch, @function
gru_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size gru_emulator_switch, . - gru_emulator_switch
)");
#endif

namespace gru_ext::emulator {

namespace {

Fiber* running;
void (*running_entry)();
void* outer_fake_stack;
const void* outer_stack;
size_t outer_stack_bytes;

void first_entry() {
  __sanitizer_finish_switch_fiber(nullptr, &outer_stack, &outer_stack_bytes);
  running_entry();
}

Fiber::Context outer;

// Goes on where `to` was left, until another call goes on at `from`.
void switch_context(Fiber::Context& from, Fiber::Context& to) {
#if defined(GRU_EMULATOR_UCONTEXT)
  swapcontext(&from, &to);
#else
  gru_emulator_switch(&from, to);
#endif
}

}  // namespace

void Fiber::start(char* stack, void (*entry)()) {
  stack_ = stack;
  running_entry = entry;
#if defined(GRU_EMULATOR_UCONTEXT)
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack;
  context_.uc_stack.ss_size = kStackBytes;
  context_.uc_link = nullptr;
  makecontext(&context_, first_entry, 0);
#else
  // A frame as gru_emulator_switch leaves it: six registers, below the address that it returns to. At that point the
  // stack pointer must be 8 beyond a multiple of 16, as after a call.
  void** top = reinterpret_cast<void**>(stack + kStackBytes - 16);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&first_entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  context_ = top;
#endif
}

void Fiber::resume() {
  running = this;
  __sanitizer_start_switch_fiber(&outer_fake_stack, stack_, kStackBytes);
  switch_context(outer, context_);
  __sanitizer_finish_switch_fiber(outer_fake_stack, nullptr, nullptr);
}

void Fiber::pause() {
  Fiber* const self = running;
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, outer_stack, outer_stack_bytes);
  switch_context(self->context_, outer);
  __sanitizer_finish_switch_fiber(fake_stack, &outer_stack, &outer_stack_bytes);
}

}  // namespace gru_ext::emulator
