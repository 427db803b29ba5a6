// The parameters of the persistent kernels, as Python names them.
#pragma once

#include "cuda/persistent/streamed/entries.h"
#include "cuda/wait_clock.h"
#include "runner.h"

namespace gru_ext::emulator {

namespace {

// Of a direction.
template <typename T>
T* buffer_of(const std::string& name, int d) {
  return buffer<T>(name + "_" + std::to_string(d));
}

template <typename T>
StepRows<T> step_rows(const std::string& name, int direction = -1) {
  T* const data = direction < 0 ? buffer<T>(name) : buffer_of<T>(name, direction);
  return {data, number(name + "_step_stride"), number(name + "_row_stride"), /*member_steps=*/0};
}

// What both directions have in common.
template <typename Parameters>
Parameters common_parameters() {
  Parameters p{};
  p.T = static_cast<int>(number("T"));
  p.B = static_cast<int>(number("B"));
  p.H = static_cast<int>(number("H"));
  p.D = static_cast<int>(number("D"));
  p.E = 1;
  p.N = number("N");
  p.paired = number("paired") != 0;
  p.aligned = number("aligned") != 0;
  p.lengths = buffer<const int>("lengths");
  p.offsets = buffer<const int64_t>("offsets");
  p.wait_limit = 4000000000 / device::kWaitTick;  // on the clock of whatever runs the kernel
  p.error = buffer<int>("error");
  if (const float* const factors = buffer<const float>("mask_factors")) {
    for (int d = 0; d < p.D; ++d) {
      const auto mask = [d](const char* name) { return buffer_of<const bool>(name, d); };
      p.masks[d] = {true, mask("zoneout"), mask("candidate"), mask("recurrent"), factors[0], factors[1], factors[2]};
    }
  }
  return p;
}

// Of one launch of all groups.
inline StreamedShare streamed_share(const StreamedShape& shape) {
  return {shape.blocks,
          shape.slabs,
          shape.shared_slabs,
          buffer<uint32_t>("flags"),
          buffer<device::u32x4>("operand"),
          buffer<device::u32x4>("weights")};
}

template <typename T>
PersistentFwdParams<T> fwd_parameters() {
  auto p = common_parameters<PersistentFwdParams<T>>();
  for (int d = 0; d < p.D; ++d) {
    p.a_x[d] = step_rows<const T>("a_x", d);
    p.weight_hh[d] = buffer_of<const T>("weight_hh", d);
    p.bias_hh[d] = buffer_of<const T>("bias_hh", d);
  }
  p.h0 = buffer<const T>("h0");
  p.y = step_rows<T>("y");
  p.h_n = buffer<T>("h_n");
  p.gates = buffer<T>("gates");
  p.packets = buffer<uint64_t>("packets");
  return p;
}

template <typename T>
PersistentBwdParams<T> bwd_parameters() {
  auto p = common_parameters<PersistentBwdParams<T>>();
  for (int d = 0; d < p.D; ++d) {
    p.weight_hh[d] = buffer_of<const T>("weight_hh", d);
    p.dgates[d] = step_rows<T>("dgates", d);
    p.h_prev[d] = step_rows<T>("h_prev", d);
  }
  p.dy = step_rows<const T>("dy");
  p.dh_n = buffer<const T>("dh_n");
  p.y = step_rows<const T>("y");
  p.h0 = buffer<const T>("h0");
  p.gates = buffer<const T>("gates");
  p.dh0 = buffer<T>("dh0");
  p.dbias = buffer<float>("dbias");
  p.packets = buffer<device::u32x4>("packets");
  return p;
}

}  // namespace

}  // namespace gru_ext::emulator
