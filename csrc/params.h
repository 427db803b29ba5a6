// What the CUDA kernels are called with: plain structs, passed by value. No torch headers here.
//
// Letters: B batch, H hidden. `scalar_t` is the dtype of the operator's tensors, `acc_t` the one it computes in: double
// for double, else float. Pointers are to the device's memory; matrices are contiguous unless a stride is named.
#pragma once

#include <cstdint>

namespace gru_ext {
namespace device {

// Storage types of the half precisions, defined in cuda/primitives.cuh.
struct bfloat16;
struct float16;

}  // namespace device

// One step of one direction; both products are done.
template <typename scalar_t, typename acc_t>
struct GruStepFwdParams {
  int64_t rows;  // the sequences that have this step: the first `rows` of the batch
  int64_t H;
  const acc_t* a_x;         // (rows, 3H) W x, without bias
  const acc_t* a_h;         // (rows, 3H) R h, without bias
  const scalar_t* bias_ih;  // (3H), or null in a layer without biases
  const scalar_t* bias_hh;  // (3H), or null likewise
  acc_t* h;                 // (rows, H) the state: read, then replaced by the next
  scalar_t* h_rounded;      // (rows, H) the next state for the next product; null where that reads h itself
  scalar_t* y;              // (rows, H), y_stride between rows: the next state
  int64_t y_stride;
  scalar_t* gates;  // (rows, 4, H): r, z, n, q; null where they are not saved
};

// One step of one direction, backwards; the product of the step after it is done.
template <typename scalar_t, typename acc_t>
struct GruStepBwdParams {
  int64_t rows;          // the sequences that have this step
  int64_t product_rows;  // those whose dh_product is still to be added to dh; may be more or fewer than `rows`
  int64_t prev_rows;     // those of `rows` whose state before this step is in y_prev; that of the others is in h0
  int64_t H;
  const scalar_t* dy;  // (rows, H), dy_stride between rows; null for zero
  int64_t dy_stride;
  const scalar_t* gates;   // (rows, 4, H): r, z, n, q
  const scalar_t* y_prev;  // (prev_rows, H), y_stride between rows
  int64_t y_stride;
  const scalar_t* h0;       // (rows, H); null for zero
  acc_t* dh;                // (max(rows, product_rows), H): dL/dh without dh_product; before this step, then after
  const acc_t* dh_product;  // (product_rows, H): the part of dL/dh that comes through the recurrent product
  scalar_t* dgates;         // (rows, 4H): gradients of n, r, z, q, in this order
  scalar_t* h_prev;         // (rows, H): the state before this step; null where it is not needed
};

}  // namespace gru_ext
