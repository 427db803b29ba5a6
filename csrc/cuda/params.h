// What the CUDA kernels are called with: plain structs, passed by value. No torch headers here.
//
// Letters: B batch, H hidden. `scalar_t` is the dtype of the operator's tensors, `acc_t` the one it computes in: double
// for double, else float. Pointers are to the device's memory; matrices are contiguous unless a stride is named.
#pragma once

#include <cstdint>

#include "cell/masks.h"

namespace gru_ext {
namespace device {

// Storage types, defined in cuda/primitives.cuh.
struct bfloat16;
struct float16;
struct u32x4;  // 16 bytes

}  // namespace device

// A tensor with a row of `scalar_t` for every step of every sequence, of unit stride within a row.
template <typename scalar_t>
struct StepRows {
  scalar_t* data;
  int64_t step_stride;  // elements between the steps; not used where sequences are packed
  int64_t row_stride;   // elements between the sequences of a step
  int member_steps;     // steps, in a packed batch rows, from a member's first to that of the next
};

// How a group of a streamed kernel shares out a layer, see persistent/streamed/slabs.cuh.
struct StreamedShape {
  int blocks;                           // of the group
  int slabs, slabs_of_slice;            // of the operand; of that of a slice, at the most
  int shared_slabs;                     // of the weights of a slice, those that stay in shared memory
  int shared_bytes;                     // of a block; 0 where there is too little
  int64_t operand_bytes, weight_bytes;  // in global memory: both buffers; weights that are read again every step
};

// What the groups of such a kernel have beside their registers.
struct StreamedShare {
  int blocks, slabs, shared_slabs;  // as in StreamedShape
  uint32_t* flags;                  // (E * D * tiles, blocks), zero at first
  // What the blocks of a group tell each other: (groups_at_a_time, 2, slabs, rows / 8, 32), zero at first.
  device::u32x4* operand;
  // (E, D, blocks, warps, streamed slabs, fragments of a slab, 32); groups of a direction share it.
  device::u32x4* weights;
};

// All steps of E members (op/members.h; 1 in a plain layer), both directions, of which the products W x are done. Where
// sequences are packed, row b of step t is row offsets[t] + b of a tensor of N rows; else it is element (t, b) by the
// strides. A cluster, or group, of blocks works on a tile of rows: those of the first member's first direction, then
// those of its second, then those of the next member.
template <typename scalar_t>
struct PersistentFwdParams {
  int T, B, H, D, E;
  int64_t N;                        // rows of all steps of a member
  const int* lengths;               // (B) steps of each sequence, not increasing; null where each has T
  const int64_t* offsets;           // (T) first row of each step; null where sequences are not packed
  bool paired;                      // whether H and all strides are even and all pointers aligned to two elements
  bool aligned;                     // whether every row of weight_hh begins at a multiple of 16 bytes
  StepRows<const scalar_t> a_x[2];  // each direction: rows of 3H, W x + b_ih
  const scalar_t* weight_hh[2];     // each direction: (E, 3H, H)
  int64_t weight_stride[2];         // each direction: elements between the members of weight_hh; 0 where they share it
  const scalar_t* bias_hh[2];       // each direction: (E, 3H); null in a layer without biases
  const scalar_t* h0;               // (E, D, B, H); null for zero
  StepRows<scalar_t> y;             // rows of D*H
  scalar_t* h_n;                    // (E, D, B, H)
  scalar_t* gates;                  // (E, D, N, 4, H), N in the order of the steps; null where they are not saved
  uint64_t* packets;                // (E * D * tiles, 2, rows, words of a row) for groups of blocks, zero at first
  StreamedShare streamed;           // for streamed kernels
  DirectionMasks<float> masks[2];   // each direction; for streamed kernels alone, and E = 1
  int groups_at_a_time;             // of a launch, at most; not used for clusters
  int first_group;                  // of this launch
  uint32_t wait_limit;              // ticks of cuda/wait_clock.h that a wait for other blocks may take
  int* error;                       // set to 1 if a wait took too long: the results are then undefined
};

// The same, backwards.
template <typename scalar_t>
struct PersistentBwdParams {
  int T, B, H, D, E;
  int64_t N;
  const int* lengths;
  const int64_t* offsets;
  bool paired, aligned;
  const scalar_t* weight_hh[2];  // each direction: (E, 3H, H)
  int64_t weight_stride[2];
  StepRows<const scalar_t> dy;   // rows of D*H; data null for zero
  const scalar_t* dh_n;          // (E, D, B, H); null for zero
  StepRows<const scalar_t> y;    // rows of D*H, as the forward left them
  const scalar_t* h0;            // (E, D, B, H); null for zero
  const scalar_t* gates;         // (E, D, N, 4, H)
  StepRows<scalar_t> dgates[2];  // each direction: rows of 4H, the gradients of n, r, z, q, in this order
  scalar_t* dh0;                 // (E, D, B, H)
  float* dbias;                  // (E, D, tiles, 4, H) sums of dgates over the rows of a tile; null if not needed
  StepRows<scalar_t> h_prev[2];  // each direction: rows of H, the state before the step; data null if not needed
  device::u32x4* packets;        // (E * D * tiles, 2, rows, words of a row of H) for groups of blocks, zero at first
  StreamedShare streamed;
  DirectionMasks<float> masks[2];
  int groups_at_a_time;
  int first_group;
  uint32_t wait_limit;
  int* error;
};

// One of the two products of a layer of one time step: the rows of weights of a unit, and the rows that they multiply.
template <typename scalar_t>
struct GruOneStepProduct {
  int64_t length;             // of a row: I or H
  const scalar_t* weight[2];  // each direction: (3H, length)
  const scalar_t* operand;    // (D, B, length), or (B, length) with a direction_stride of 0: x or h0; null for zero
  int64_t direction_stride, row_stride, value_stride;  // of operand, in elements
  int warps;     // of a block, that share a row; set at the launch, 0 where operand is null
  bool aligned;  // whether all rows begin at multiples of 16 bytes, with their values side by side
};

// A layer of one time step, all directions.
template <typename scalar_t>
struct GruOneStepFwdParams {
  int64_t B, H, D;
  GruOneStepProduct<scalar_t> of_x, of_h;
  const scalar_t* bias_ih[2];  // each direction: (3H); null in a layer without biases
  const scalar_t* bias_hh[2];  // likewise
  scalar_t* y;                 // (B, D*H); null where it is not saved
  scalar_t* h_n;               // (D, B, H)
  scalar_t* gates;             // (D, B, 4, H): r, z, n, q; null where they are not saved
};

// One step of one direction; its products are done. With the reset gate before the recurrent product there are two of
// these, and a kernel after each.
template <typename scalar_t, typename acc_t>
struct GruStepFwdParams {
  int64_t rows;  // the sequences that have this step: the first `rows` of the batch
  int64_t H;
  const acc_t* a_x;         // (rows, 3H) W x, without bias
  const acc_t* a_h;         // (rows, 3H) R h, without bias; reset gate before: (rows, 2H), of r and z
  const scalar_t* bias_ih;  // (3H), or null in a layer without biases
  const scalar_t* bias_hh;  // (3H), or null likewise
  acc_t* h;                 // (rows, H) the state: read, then replaced by the next
  scalar_t* h_operand;      // (rows, H) the next state for the next product; null where that reads h itself
  scalar_t* y;              // (rows, H), y_stride between rows: the next state; null where it is not saved
  int64_t y_stride;
  scalar_t* gates;  // (rows, 4, H): r, z, n, q; reset gate before: (rows, 3, H); null where they are not saved
  DirectionMasks<acc_t> masks;
  // Reset gate before:
  scalar_t* reset;       // (rows, H) r * h, for the second product
  acc_t* z;              // (rows, H) from the first kernel to the second
  const acc_t* a_reset;  // (rows, H) R_n (r * h)
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
  const scalar_t* gates;   // as forward
  const scalar_t* y_prev;  // (prev_rows, H), y_stride between rows
  int64_t y_stride;
  const scalar_t* h0;       // (rows, H); null for zero
  acc_t* dh;                // (max(rows, product_rows), H): dL/dh without dh_product; before this step, then after
  const acc_t* dh_product;  // (product_rows, H): the part of dL/dh that comes through the recurrent product
  scalar_t* dgates;         // (rows, 4H): gradients of n, r, z, q, in this order; reset gate before: (rows, 3H)
  scalar_t* h_operand;      // (rows, H): the state before this step as the product has it; null where not needed
  DirectionMasks<acc_t> masks;
  // Reset gate before:
  const acc_t* dreset;  // (rows, H): the gradient of r * h
  scalar_t* reset;      // (rows, H): r * h; null where h_operand is
};

// The normalisations of some rows of a product, r, z, n of H values each, see `Variant::layer_norm` in op/layer.h.
template <typename scalar_t, typename acc_t>
struct GruStepNormFwdParams {
  int64_t rows, H;
  int norms;              // 1 or 2
  acc_t* values;          // (rows, 3H): normalised, with gains, in place
  const scalar_t* gain;   // (3H)
  scalar_t* hat;          // (rows, 3H), saved_stride between rows: normalised, without gains; null where not saved
  scalar_t* inverse_std;  // (rows, norms), likewise
  int64_t saved_stride;
};

// The same, backwards.
template <typename scalar_t>
struct GruStepNormBwdParams {
  int64_t rows, H;
  int norms;
  const scalar_t* d;  // (rows, gates of H), d_stride between rows: the gradients of what the cell took
  int64_t d_stride;
  int d_gate[3], out_gate[3];  // where r, z, n lie in a row of d and of out
  const scalar_t* gain;        // as forward
  const scalar_t* hat;
  const scalar_t* inverse_std;
  int64_t saved_stride;
  scalar_t* out;  // (rows, gates of H), out_stride between rows: the gradients of the product
  int64_t out_stride;
};

}  // namespace gru_ext
