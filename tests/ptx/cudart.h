// What tests may ask, and set, of the device that stands in the place of a GPU.
#pragma once

#include <string>
#include <vector>

namespace cudart {

// As an H100's.
struct Device {
  int architecture = 90;  // of which the PTX is run: the newest text that is not newer than this
  int multiprocessors = 132;
  int shared_of_multiprocessor = 228 * 1024;
  int shared_of_block = 227 * 1024;  // with the attribute; else 48 KB
  int threads_of_multiprocessor = 2048;
  int registers_of_multiprocessor = 65536;
  int largest_cluster = 16;  // with the attribute; else 8
};
extern Device device;

// Launches so far, and the kernel of the last one.
extern int launches;
extern std::string last_kernel;

// Of all objects of this library, as nvcc names them.
std::vector<std::string> kernels();
// What a launch names it by; null where there is none of this name.
const void* kernel_named(const std::string& name);

// "Lazy Loading" of the CUDA Programming Guide: a kernel is loaded by the first call that needs it.
bool is_loaded(const void* kernel);
void load(const void* kernel);

// From now on there is another device, as `device` says, on which no kernel was loaded or given any attribute.
void new_device();

}  // namespace cudart
