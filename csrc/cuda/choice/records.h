// What has come of each kernel on each device: it passed the self-test, or there is a reason not to use it any more.
#pragma once

#include <string>

#include "cuda/choice/family.h"

namespace gru_ext {

struct KernelRecord {
  bool tested = false;
  std::string fault;  // why it is not used any more; empty while it is
};

// Of the current device.
KernelRecord record_of(const Kernel& kernel);
void mark_tested(const Kernel& kernel);
void rule_out(const Kernel& kernel, const std::string& why);

// Has every family load what it needs of a dtype on the current device, once, or until it succeeds.
void load_once(at::ScalarType dtype);

}  // namespace gru_ext
