#include "runner.h"

#include <exception>
#include <map>
#include <stdexcept>

namespace gru_ext::emulator {

namespace {

std::map<std::string, int64_t> numbers;
std::map<std::string, void*> pointers;
std::string error;

std::map<std::string, std::function<void()>>& kernels() {
  static std::map<std::string, std::function<void()>> map;
  return map;
}

}  // namespace

int64_t number(const std::string& name) {
  const auto it = numbers.find(name);
  if (it == numbers.end()) throw std::runtime_error("the number " + name + " is missing");
  return it->second;
}

void* buffer(const std::string& name) {
  const auto it = pointers.find(name);
  return it == pointers.end() ? nullptr : it->second;
}

Kernel::Kernel(const std::string& name, std::function<void()> run) { kernels()[name] = std::move(run); }

}  // namespace gru_ext::emulator

using namespace gru_ext::emulator;

extern "C" {

void gru_emulator_number(const char* name, int64_t value) { numbers[name] = value; }

void gru_emulator_buffer(const char* name, void* p, int64_t bytes, int writable) {
  pointers[name] = p;
  name_buffer(name, p, static_cast<size_t>(bytes), writable != 0);
}

// The names of all kernels, one a line.
const char* gru_emulator_kernels() {
  static std::string names;
  names.clear();
  for (const auto& kernel : kernels()) names += kernel.first + "\n";
  return names.c_str();
}

// Runs a kernel with the arguments named since the last run, which are forgotten. Null, or what went wrong.
const char* gru_emulator_run(const char* kernel, uint64_t seed, int races, int time_out, int lost_store,
                             const char* fault) {
  error.clear();
  try {
    begin(seed, races != 0, time_out != 0, lost_store, fault);
    const auto it = kernels().find(kernel);
    if (it == kernels().end()) throw std::runtime_error(std::string("no kernel is called ") + kernel);
    it->second();
  } catch (const std::exception& exception) {
    error = exception.what();
  }
  numbers.clear();
  pointers.clear();
  forget_buffers();
  return error.empty() ? nullptr : error.c_str();
}
}
