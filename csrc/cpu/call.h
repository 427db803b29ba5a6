// What surrounds every call of an operator of the CPU backend.
#pragma once

#include <c10/util/Exception.h>

#include <exception>
#include <new>
#include <string_view>

#include "cpu/buffers.h"
#include "op/dispatch.h"
#include "op/forked_child.h"

namespace gru_ext {

// Whether memory was missing. For its own tensors on a CPU, torch throws the error that it throws for everything.
inline bool is_out_of_memory(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) return true;
  if (dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr) return true;
  return std::string_view(error.what()).find("DefaultCPUAllocator") != std::string_view::npos;
}

// Returns body(), whose results must be new tensors: where memory is missing that the pool keeps, it is called again.
template <typename Body>
auto call_on_cpu(const Body& body) {
  const BelowAutogradAndAutocast below;
  const OneThreadInForkedChild one_thread;
  try {
    return body();
  } catch (const std::exception& error) {
    if (!is_out_of_memory(error) || empty_pool() == 0) throw;
  }
  return body();
}

}  // namespace gru_ext
