// An interpreter of the PTX that nvcc emits. Written from NVIDIA's "Parallel Thread Execution ISA" alone, whose
// sections are cited by title, so that it and tests/emulator, which runs the kernels' source, judge each other.
//
// What the ISA leaves undefined is an error wherever it can be seen: see docs/kernels.md, "How they are proven".
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace ptx {

// What is wrong with a kernel, or what the interpreter does not know; says where.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// ---- Global memory: what was not adopted may be neither read nor written.

void adopt(const void* p, size_t bytes, bool writable);
void forget(const void* p);  // what was adopted last at p
void forget_all();

// ---- Modules

struct Kernel;
struct Module;

// The PTX texts of a fat binary, as __cudaRegisterFatBinary gets it. An Error if it is compressed, or has none.
std::vector<std::string> texts_of(const void* wrapper);
// The number in ".target sm_90".
int target_of(const std::string& text);

std::shared_ptr<Module> load(const std::string& text);

// The entry, decoded when it is first asked for; null if the module has none of this name. An opcode that the
// interpreter does not know is an Error that names it and its line of source.
const Kernel* find(Module& module, const std::string& name);

// Plants a fault: from now on entries are decoded from their text with every match of the regular expression, within a
// line, replaced. An entry without a match is an Error. Empty: none.
void plant(const std::string& expression, const std::string& replacement);

// What an entry says of itself.
struct Requirements {
  size_t parameter_bytes = 0;
  int most_threads = 0;              // .maxntid, or what .reqntid says; 0: any
  int blocks_of_multiprocessor = 0;  // .minnctapersm; 0: it does not say
  int most_registers = 0;            // .maxnreg; 0: as many as there are
  size_t static_shared = 0;          // bytes of a block; dynamic shared memory begins there
  size_t local_bytes = 0;            // of a thread: its stack
};
const Requirements& requirements_of(const Kernel& kernel);
// Offset and size of each parameter.
std::vector<std::pair<size_t, size_t>> parameters_of(const Kernel& kernel);

// ---- Runs

struct Launch {
  int grid, block;
  int shared_bytes = 0;  // dynamic
  int cluster = 1;
  bool cooperative = false;  // all blocks at the same time
  const void* parameters;
};

struct Options {
  uint64_t seed = 1;      // of the order in which warps run, lanes part, stores arrive, and copies are done
  bool races = true;      // whether accesses to memory are checked for their order, and shared memory for what is there
  bool time_out = false;  // whether waits that would last forever end in vain, as on a GPU, or the launch fails
  int64_t lost_store = -1;  // number, in a launch, of the store for other blocks that never arrives
};
extern Options options;

void run(const Kernel& kernel, const Launch& launch);

// Of the entries that have been run, a line of words for each line of source: how many instructions of an entry come
// from it, how many of these were ever executed, the line ("csrc/cuda/x.cuh:12", "-" where nvcc does not say), the
// entry.
std::string coverage();
std::vector<std::string> kernels_run();

}  // namespace ptx
