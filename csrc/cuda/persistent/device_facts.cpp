#include "cuda/persistent/device_facts.h"

#include <c10/cuda/CUDAFunctions.h>
#include <c10/util/Exception.h>

#include <atomic>

#include "cuda/choice/time_model.h"
#include "cuda/wait_clock.h"

namespace gru_ext {

namespace {

std::mutex devices_mutex;
std::map<int, DeviceFacts> devices;
std::atomic<double> seconds_of_wait{4};

DeviceFacts& facts_of_device() {
  const int device = c10::cuda::current_device();
  const auto it = devices.find(device);
  if (it != devices.end()) return it->second;
  const double rate = clock_rate();
  return devices[device] = {rate > 0 ? rate : kAssumedClockRate};
}

}  // namespace

void check_waits() {
  {
    const std::lock_guard<std::mutex> lock(devices_mutex);
    const auto it = devices.find(c10::cuda::current_device());
    if (it == devices.end()) return;  // nothing was asked of this device yet, so none of its kernels has run
    DeviceFacts& facts = it->second;
    if (facts.error.host == nullptr || *facts.error.host == 0) return;
    *facts.error.host = 0;
    facts.fault = "a cluster kernel waited too long in an earlier call on this device";
  }
  TORCH_CHECK(false, "gru: a cluster kernel of an earlier call waited more than ", seconds_of_wait.load(),
              " seconds for other blocks of its cluster, so that the results of the calls since then are wrong. The"
              " stepwise kernels serve on this device from now on");
}

uint32_t wait_limit() { return static_cast<uint32_t>(1e9 * seconds_of_wait / device::kWaitTick); }

double set_cuda_wait_limit(double seconds) {
  TORCH_CHECK_VALUE(seconds >= 1e-3 && seconds <= 3600,
                    "set_cuda_wait_limit: expected seconds from 0.001 to 3600, got ", seconds);
  return seconds_of_wait.exchange(seconds);
}

int resident_of(const PersistentEntry& entry) {
  const std::optional<int> resident = LockedDevice().resident(entry, /*capturing=*/false);
  TORCH_CHECK_WITH(OutOfMemoryError, resident.has_value(), "gru: no memory is left to load the kernel");
  return *resident;
}

LockedDevice::LockedDevice() : lock_(devices_mutex), facts(facts_of_device()) {
  if (facts.error.host == nullptr) facts.error = new_shared_word();
}

std::optional<int> LockedDevice::resident(const PersistentEntry& entry, bool capturing) {
  const auto it = facts.resident.find(&entry);
  if (it != facts.resident.end()) return it->second;
  const int resident = capturing ? kNoMemoryNow : entry.resident();
  if (resident == kNoMemoryNow) return std::nullopt;
  return facts.resident[&entry] = resident;
}

}  // namespace gru_ext
