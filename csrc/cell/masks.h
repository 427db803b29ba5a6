// The masks of one direction of a layer as kernels take them, on any device; `Variant` in op/layer.h says what they
// mean. No torch headers here.
#pragma once

namespace gru_ext {

// `acc_t` is what the kernels compute in. `rows` are those of all steps in time, N, or of one step.
template <typename acc_t>
struct DirectionMasks {
  bool any = false;                 // whether anything below has an effect
  const bool* zoneout = nullptr;    // (rows, H); null: every unit keeps the part `kept` of its state
  const bool* candidate = nullptr;  // (rows, H); null: nothing is dropped
  const bool* recurrent = nullptr;  // (B, H); likewise
  acc_t kept = 0;
  acc_t candidate_scale = 1, recurrent_scale = 1;  // of what candidate and recurrent let through
};

}  // namespace gru_ext
