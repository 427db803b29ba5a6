// What the CPU backend registers: its operators, and what src/gru_ext/library.py asks of it.
#include <torch/library.h>

#include <optional>
#include <string>
#include <vector>

#include "cpu/buffers.h"
#include "cpu/cache.h"
#include "cpu/cores.h"
#include "cpu/isa.h"
#include "cpu/op_cpu.h"
#include "op/registration.h"
#include "op/schemas.h"

TORCH_LIBRARY_IMPL(gru_ext, CPU, m) {
  if (!gru_ext::is_first_copy()) return;
  m.impl("gru_fwd", gru_ext::gru_fwd_operator<gru_ext::gru_fwd_cpu>);
  m.impl("gru_bwd", gru_ext::gru_bwd_operator<gru_ext::gru_bwd_cpu>);
  m.impl("gru_fwd_members", gru_ext::gru_fwd_members_operator<gru_ext::gru_fwd_members_cpu>);
  m.impl("gru_bwd_members", gru_ext::gru_bwd_operator<gru_ext::gru_bwd_members_cpu>);
  m.impl("gru_fwd_blocks", gru_ext::gru_fwd_members_operator<gru_ext::gru_fwd_blocks_cpu>);
  m.impl("gru_bwd_blocks", gru_ext::gru_bwd_operator<gru_ext::gru_bwd_blocks_cpu>);
  m.impl("gru_int8", gru_ext::gru_int8_cpu);
  m.impl("prepare", gru_ext::prepare_cpu);
  m.impl("gru_prepared", gru_ext::gru_prepared_cpu);
}

TORCH_LIBRARY_FRAGMENT(gru_ext, m) {
  if (!gru_ext::is_first_copy()) return;
  m.def("empty_cache() -> int", gru_ext::empty_pool);
  m.def(
      "rehearse_cpu(Tensor x, Tensor[] weights, int threads, int together, float wait, bool backward, "
      "Tensor? batch_sizes=None) -> float[]",
      gru_ext::rehearse_cpu);
  m.def("cpu_cores() -> int", [] { return static_cast<int64_t>(gru_ext::cores()); });
  m.def("cores_of_quota(str root) -> float", [](const std::string& root) { return gru_ext::cores_of_quota(root); });
  m.def("core_time(str root) -> float[]", [](const std::string& root) {
    const std::optional<gru_ext::CoreTime> time = gru_ext::core_time(root);
    return time.has_value() ? std::vector{time->seconds, time->left} : std::vector<double>{};
  });
  m.def("cache_of_core() -> int", gru_ext::cache_of_core);
  m.def("cpu_isa() -> str", [] { return std::string(gru_ext::isa_name(gru_ext::cpu_isa())); });
  m.def("available_cpu_isas() -> str[]", gru_ext::available_isa_names);
  m.def("reason_without_tiles() -> str", gru_ext::reason_without_tiles);
}
