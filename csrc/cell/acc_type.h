// The type of sums, on any device.
#pragma once

namespace gru_ext {

// The type a kernel computes and carries the state in, for tensors that hold scalar_t.
template <typename scalar_t>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};
template <typename scalar_t>
using acc_type = typename Accumulate<scalar_t>::type;

}  // namespace gru_ext
