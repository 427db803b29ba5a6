// What src/gru_ext/library.py asks of the library, as operators: the library serves programs without Python too, so
// that nothing in it may need one.
#include <ATen/core/Dict.h>
#include <torch/library.h>

#include <string>

#include "op/registration.h"

namespace gru_ext {
namespace {

// src/gru_ext/library.py reads this section of the file before it loads it, which another torch may not survive.
__attribute__((section("gru_ext_torch"), used)) const char built_for_torch[] = GRU_EXT_TORCH_VERSION;

c10::Dict<std::string, std::string> build_facts() {
  c10::Dict<std::string, std::string> facts;
  facts.insert("version", GRU_EXT_VERSION);
  facts.insert("built_for_torch", built_for_torch);
  facts.insert("cuda_build", GRU_EXT_CUDA_BUILD);
  facts.insert("loaded_from", loaded_from());
  return facts;
}

}  // namespace
}  // namespace gru_ext

TORCH_LIBRARY_FRAGMENT(gru_ext, m) {
  if (gru_ext::is_first_copy()) m.def("build_facts() -> Dict(str, str)", gru_ext::build_facts);
}
