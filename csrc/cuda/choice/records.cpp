#include "cuda/choice/records.h"

#include <c10/cuda/CUDAFunctions.h>

#include <map>
#include <mutex>
#include <set>
#include <utility>

namespace gru_ext {
namespace {

std::mutex records_mutex;
std::map<std::pair<int, const Kernel*>, KernelRecord> records;  // by device

KernelRecord& locked_record(const Kernel& kernel) { return records[{c10::cuda::current_device(), &kernel}]; }

}  // namespace

KernelRecord record_of(const Kernel& kernel) {
  const std::lock_guard<std::mutex> lock(records_mutex);
  return locked_record(kernel);
}

void mark_tested(const Kernel& kernel) {
  const std::lock_guard<std::mutex> lock(records_mutex);
  locked_record(kernel).tested = true;
}

void rule_out(const Kernel& kernel, const std::string& why) {
  const std::lock_guard<std::mutex> lock(records_mutex);
  locked_record(kernel).fault = why;
}

void load_once(at::ScalarType dtype) {
  static std::set<std::pair<int, at::ScalarType>> loaded;  // by device
  const std::pair<int, at::ScalarType> key{c10::cuda::current_device(), dtype};
  const std::lock_guard<std::mutex> lock(records_mutex);
  if (loaded.count(key) > 0) return;
  bool all = true;
  for (const Family* family : families()) all = family->load(dtype) && all;
  if (all) loaded.insert(key);
}

}  // namespace gru_ext
