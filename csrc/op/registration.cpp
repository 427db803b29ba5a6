#include "op/registration.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/Exception.h>
#include <dlfcn.h>

namespace gru_ext {

bool is_first_copy() {
  // Asked for the first time before this copy registers anything.
  static const bool first = [] {
    const bool registered = c10::Dispatcher::singleton().findSchema({"gru_ext::gru", ""}).has_value();
    if (registered) {
      TORCH_WARN(
          "gru_ext: another copy of the library is loaded in this process, whose operators stay in use; that of ",
          loaded_from(), " has no effect");
    }
    return !registered;
  }();
  return first;
}

const char* loaded_from() {
  Dl_info info;
  const bool found = dladdr(reinterpret_cast<void*>(&loaded_from), &info) != 0 && info.dli_fname != nullptr;
  return found ? info.dli_fname : "";
}

}  // namespace gru_ext
