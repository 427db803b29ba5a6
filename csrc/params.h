// Plain parameter structs of the step kernels. No torch headers: a kernel sees pointers, sizes and strides.
//
// Letters: T steps, B batch, H hidden, D directions; `rows` is how many rows of the batch a step has (B, or fewer
// where the sequences of a packed batch have ended). Strides count elements.
#pragma once

#include <cstdint>

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

// The gates of one time step, forward.
template <typename scalar_t>
struct StepFwd {
  using acc_t = acc_type<scalar_t>;
  int64_t H;
  const acc_t* input_gates;   // (rows, 3H)  W x + b_ih, plus b_hh for r and z; order r, z, n
  const acc_t* hidden_gates;  // (rows, 3H)  R h; order r, z, n
  const acc_t* bias_hn;       // (H)         b_hh of the candidate
  acc_t* h;                   // (rows, H)   in: the state before the step, out: after it
  scalar_t* y;                // (rows, H)   out: the state after the step
  int64_t y_stride;           //             between rows of y
  scalar_t* gates;            // (rows, 4, H) out: r, z, n, q; null where no gradient will be asked for
};

// The gates of one time step, backward.
template <typename scalar_t>
struct StepBwd {
  using acc_t = acc_type<scalar_t>;
  int64_t H;
  const scalar_t* dy;      // (rows, H)    gradient of y at this step; null for zero
  int64_t dy_stride;       //              between rows of dy
  const scalar_t* gates;   // (rows, 4, H) r, z, n, q as the forward left them
  const scalar_t* y_prev;  // (prev_rows, H) state before the step, of the rows that had an earlier step
  int64_t y_stride;        //              between rows of y_prev
  int64_t prev_rows;       //              the others begin at this step, from h0
  const scalar_t* h0;      // (rows, H)    initial state; null for zero
  acc_t* h_prev;           // (rows, H)    out: the state before the step, for the gradient of R
  acc_t* dh;               // (rows, H)    in: gradient of the state from later steps, out: dL/dh' * z
  acc_t* dgates;           // (rows, 4, H) out: gradients of the pre-activations; order n, r, z, q
};

}  // namespace gru_ext
