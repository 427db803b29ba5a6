// PTX that a test has written, as Python runs it: see tests/emulator/runner.h.
#include "ptx.h"
#include "runner.h"

namespace gru_ext::emulator {
namespace {

// An entry called "of_a_test" with four pointers, by one warp.
const Kernel text("text", [] {
  static std::vector<std::shared_ptr<ptx::Module>> kept;  // whatever has run, ptx::coverage may be asked for
  kept.push_back(ptx::load(buffer<const char>("text")));
  void* const parameters[] = {buffer("a"), buffer("b"), buffer("c"), buffer("d")};
  ptx::Launch launch;
  launch.grid = 1;
  launch.block = 32;
  launch.parameters = parameters;
  ptx::run(*ptx::find(*kept.back(), "of_a_test"), launch);
});

}  // namespace
}  // namespace gru_ext::emulator
