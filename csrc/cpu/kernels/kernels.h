// The CPU's kernels: one layer and direction, a chunk of time steps at a time, as one thread of several runs it. One
// implementation per instruction set (kernels_*.cpp); `kernels` returns the one in use.
//
// Letters: I input, H hidden. A `group` is as many hidden units as a vector has lanes; the last group is filled up with
// units whose weights are zero. A `panel` is some vectors of columns of a matrix. "Padded H" is H rounded up to whole
// groups, or panels backward.
#pragma once

#include <c10/util/Half.h>

#include <algorithm>
#include <cstdint>

#include "cell/acc_type.h"
#include "cell/masks.h"
#include "cpu/cache.h"
#include "cpu/kernels/parts.h"

namespace gru_ext {

class StepBarrier;

// Values of K summed in one chain of additions; longer products are sums of such sums, which round less.
constexpr int64_t kLongestSum = 256;

// Rows of the batch that stay together when threads split them, and whose gate gradients are summed together for the
// gradients of the biases. A product of four rows has one chain of additions for each sum, whatever the instruction
// set, as one of more rows has. So bits do not depend on how many threads there are.
constexpr int64_t kRowBlock = 8;
// Half of that where 4 divides B and 64 cores would not all have a whole block.
inline int64_t row_block_of(int64_t B) { return B % 4 == 0 && B < 64 * kRowBlock ? 4 : kRowBlock; }

// What a panel of packed weights (rows of gates, K) holds. Vector v of panel p has the units of group
// p * groups() + v * group_step, of gate v * gate_step. kThreeGates: r, z, n of one group. kTwoGroups: two neighbouring
// groups of one gate.
struct UnitVectors {
  int count;                                                                   // vectors of a panel
  int64_t group_step;                                                          // groups from one vector to the next
  int64_t gate_step;                                                           // gates from one vector to the next
  int64_t groups() const { return group_step == 0 ? 1 : count * group_step; }  // of a panel
};
constexpr UnitVectors kThreeGates{3, 0, 1};
constexpr UnitVectors kTwoGates{2, 0, 1};
constexpr UnitVectors kTwoGroups{2, 1, 0};

// A time step of a chunk.
struct Step {
  int64_t row;         // first row of the step within the chunk
  int64_t rows;        // rows of the step: B, or fewer where sequences of a packed batch have ended; of a row group
  int64_t packed_row;  // first row of the step within all steps, for the gates
  int64_t offset;      // elements from the start of y (forward) or dy (backward) to the step's first row
};

// Forward over a chunk. The operands of the products (x, the exchanged state, the weights) are of operand_t: acc_t, or
// bfloat16 where the instruction set multiplies that, or parts (parts.h); sums, gates and the state itself are of
// acc_t.
template <typename scalar_t, typename operand_t>
struct FwdChunk {
  using acc_t = acc_type<scalar_t>;
  int64_t I, H;
  const Step* steps;        // in the order of the recurrence
  int64_t step_count;       //
  int64_t first_step;       // steps before this chunk, in that order
  int64_t rows;             // rows of all steps of the chunk
  const operand_t* x;       // (rows, I)
  int64_t x_stride;         // between rows of x; by parts it has room for each
  bool reset_after;         // whether the reset gate comes after the recurrent product
  int norms;                // normalisations of each of W x and R h, 0 to 2: `Variant::layer_norm` in op/layer.h
  bool has_input;           // whether input_gates are computed already
  bool all_rows;            // whether the steps have all rows of the chunk; else those of a row group
  bool packed;              // whether the weights are packed by `pack_units`; else they are the parameters as they are,
                            // and x and h are in words where there is FwdKernels::to_words
  bool one_chain;           // whether each sum is one chain of additions, however few rows a product has: of a packed
                            // batch, whose row groups have few of them where sequences end
  const void* weight_ih;    // (3H, I)        panels of kThreeGates
  const void* weight_hh;    // (3H, H)        panels of kThreeGates; reset gate before: (2H, H), panels of kTwoGates
  const void* weight_hn;    // (H, H)         reset gate before: that of the candidate, panels of kTwoGroups
  const acc_t* input_bias;  // (3, unit_stride)  b_ih, plus b_hh but for q; zero beyond H
  const acc_t* bias_hn;     // (unit_stride)     b_hh of q; likewise
  acc_t* input_gates;       // (groups, rows, 3, lanes) scratch: W x + b_ih of the chunk
  // With norms:
  const acc_t* gains;   // (6, unit_stride)  of W x, r, z, n, then of R h; zero beyond H
  acc_t* hidden_gates;  // (groups, B, 3, lanes)  scratch: R h of the step
  acc_t* moments;       // (threads, moment_rows, 2, 2)  scratch: of each thread's units, each normalisation: the mean,
                        //                               and the sum of squares of what differs from it
  int64_t B, moment_rows;
  operand_t* h[2];      // (B, h_stride)  the state before step s is h[s % 2], the state after it h[(s + 1) % 2];
                        //                reset gate before: the state is h[0], r * h of the step h[1]; with norms:
                        //                h[0]
  int64_t h_stride;     // as many unit_strides as there are parts, or words_stride of H
  int64_t unit_stride;  // at least padded H
  acc_t* state;         // (B, unit_stride)  in, out: the state of each row, each unit read and written by one thread
  bool saves_y, saves_gates;
  scalar_t* y;       // out: the states, where saves_y
  int64_t y_stride;  // between rows of y
  scalar_t* gates;   // (N, 4, H)      out: r, z, n, q, where saves_gates; reset gate before: (N, 3, H), r, z, n; with
                     //                norms: (N, 9 H + 16), see op/layer.h
  DirectionMasks<acc_t> masks;
};

// Backward over a chunk: the recurrence, then the products that turn its gate gradients into the gradients of the
// weights and of x. `dh` enters as the gradient of the state after the chunk's last step in time (of its first for the
// reverse direction), and leaves as that of the state before its first. operand_t as in FwdChunk.
template <typename scalar_t, typename operand_t>
struct BwdChunk {
  using acc_t = acc_type<scalar_t>;
  int64_t I, H;
  const Step* steps;              // in the order of the backward recurrence
  int64_t step_count;             //
  int64_t B;                      // rows of the batch
  int64_t first_step;             // waits of the barrier before this chunk
  int64_t rows;                   // rows of all steps of the chunk
  bool first, last;               // whether no chunk has been added to the weight gradients, and whether none will be
  bool packed;                    // whether the weights are packed by `pack_columns`; else they are the parameters
  bool one_chain;                 // as in FwdChunk
  bool last_product;              // whether to multiply the last step's gradients with R: false where none asks for dhx
  bool reset_after;               // as in FwdChunk
  int norms;                      // likewise
  bool need_dx, need_dweights;    // whether they are asked for
  const void* weight_hh;          // (3H, H); reset gate before: (2H, H)
  const void* weight_hn;          // (H, H), of the candidate: reset gate before
  const void* weight_ih;          // (3H, I), packed in the order n, r, z, where need_dx
  const scalar_t* const* x;       // (rows)  the rows of x, I values each
  const scalar_t* const* h_prev;  // (rows)  the state before each step, H values; null for zero
  scalar_t* operand;              // (rows, H) scratch: what of the states entered the recurrent product, with a mask
  const scalar_t* dy;             // gradient of y; null for zero
  int64_t dy_stride;              // between rows of dy
  const scalar_t* gates;  // (rows, 4, H) those of the chunk; reset gate before: (rows, 3, H); with norms: (rows,
                          // 9 H + 16)
  acc_t* dh;              // (B, dh_stride)
  int64_t dh_stride;      // at least padded H
  operand_t* dgates;      // (rows, dgates_stride)  scratch: gradients of the pre-activations; order n, r, z, q
  int64_t dgates_stride;  // of each part at least 4H; reset gate before: 3H, there is no q; with norms: 6H, n, r, z of
                          // W x, then r, z, n of R h
  int64_t dgates_of_h;    // column of dgates from which on they are those of R h: H, or 3H with norms
  // With norms:
  const acc_t* gains;    // (6, dh_stride)  as in FwdChunk
  const acc_t* bias_hn;  // (dh_stride)
  acc_t* da;             // (B, 4, dh_stride)  scratch: gradients of what the cell took, r, z, n, q, of the step
  int64_t moment_rows;   // B
  acc_t* moments;        // (threads, B, 2, 4)  scratch: of each thread's units, each normalisation: the sums of d and
                         //                     d * hat, as in `norm_bwd`, of W x and of R h
  acc_t* panels;         // scratch, filled by `pack_rows`: x, the previous states and, reset gate before, r times
                         // them; packed as by `pack_columns`
  acc_t* products;       // (ranges, items, tile_rows, panel_columns) scratch: the gradients of the weights of each
                         //   kLongestSum rows, which `products` leaves; null where `gradients` adds up at once
  acc_t* sums_ih;  // (3H, I)  scratch, where need_dweights: the gradient of W by the chunks up to now; the same as
                   //   dweight_ih, where that is of acc_t
  acc_t* sums_hh;  // (3H, H)  likewise
  scalar_t* dweight_ih;  // (3H, I)  out, by the last chunk
  scalar_t* dweight_hh;  // (3H, H)  likewise
  int sums;              // of a unit: 4, or 10 with norms
  int64_t row_block;     // row_block_of the whole batch, a power of two: rows of which dbias has sums
  acc_t* dbias;  // (blocks of row_block rows, sums, dh_stride)  in, out: sums of the gate gradients, order n, r, z, q;
                 // then those of the gains
  acc_t* dbias_partial;  // as dbias  scratch, zero: sums of the latest steps
  scalar_t* const* dx;   // (rows)  out: the rows of dx, where need_dx
  bool add_to_dx;        // whether dx holds the other direction's part
  DirectionMasks<acc_t> masks;
};

// Between rows in words, which are what products with weights that are not packed take on tiles
// (turned_product_body.h): 16 rows are (ceil(K / 32) * 16, 16) words, each of two values along K.
inline int64_t words_stride(int64_t K) { return (K + 31) / 32 * 32; }

template <typename scalar_t, typename operand_t>
struct FwdKernels {
  int64_t lanes;  // hidden units of a group
  // weights (gates of H units, K) -> (panels, words, vectors.count, lanes), the panels [begin, end). A word has the
  // size of acc_t and holds as many consecutive values of a row as fit: `words_of` K.
  void (*pack_units)(const scalar_t* weights, UnitVectors vectors, int64_t H, int64_t K, int64_t begin, int64_t end,
                     void* packed);
  // `count` values -> a row of operands of products, of this stride: of x, and of the state.
  void (*input_to_operands)(const scalar_t* source, int64_t count, operand_t* target, int64_t stride);
  void (*to_operands)(const acc_type<scalar_t>* source, int64_t count, operand_t* target, int64_t stride);
  // The latter for rows in words; null where weights that are not packed take rows as they are.
  void (*to_words)(const acc_type<scalar_t>* source, int64_t count, operand_t* rows, int64_t stride, int64_t row);
  // A thread's share of the input product of all rows.
  void (*multiply_input)(const FwdChunk<scalar_t, operand_t>& chunk, int thread, int threads);
  // One thread's part of the steps: the groups that `share` gives it. `fwd` takes no masks.
  void (*fwd)(const FwdChunk<scalar_t, operand_t>& chunk, int thread, int threads, StepBarrier& barrier);
  void (*fwd_masked)(const FwdChunk<scalar_t, operand_t>& chunk, int thread, int threads, StepBarrier& barrier);
};

template <typename scalar_t, typename operand_t>
struct BwdKernels {
  using acc_t = acc_type<scalar_t>;
  int64_t panel_columns;  // columns of a panel
  int64_t tile_rows;      // rows of the gradient of a weight that meet a panel together
  // weights (K, columns) -> (panels, words, panel_columns), the panels [begin, end). A word has the size of acc_t and
  // holds as many consecutive values of a column as fit. Row k of the result is row (k + first_row) % K of weights.
  void (*pack_columns)(const scalar_t* weights, int64_t K, int64_t columns, int64_t first_row, int64_t begin,
                       int64_t end, acc_t* packed);
  // A thread's share of the panels of `count` chunks. No step reads them.
  void (*pack_rows)(const BwdChunk<scalar_t, operand_t>* chunks, int64_t count, int thread, int threads);
  // One thread's part of the steps: the panels that `share` gives it. `bwd` takes no masks.
  void (*bwd)(const BwdChunk<scalar_t, operand_t>& chunk, int thread, int threads, StepBarrier& barrier);
  void (*bwd_masked)(const BwdChunk<scalar_t, operand_t>& chunk, int thread, int threads, StepBarrier& barrier);
  // A thread's share of chunk.products of `count` chunks, from the gate gradients of all steps and the panels, and of
  // the gradient of x.
  void (*products)(const BwdChunk<scalar_t, operand_t>* chunks, int64_t count, int thread, int threads);
  // A thread's share of the gradients of the weights from chunk.products; where there are none, likewise, and of x. Of
  // the chunks in their order.
  void (*gradients)(const BwdChunk<scalar_t, operand_t>* chunks, int64_t count, int thread, int threads);
};

// Words of `rows` rows of `columns` values, packed in panels.
template <typename scalar_t, typename operand_t>
int64_t packed_words(const BwdKernels<scalar_t, operand_t>& kernel, int64_t rows, int64_t columns) {
  const int64_t panels = (columns + kernel.panel_columns - 1) / kernel.panel_columns;
  return panels * words_of<acc_type<scalar_t>, operand_t>(rows) * kernel.panel_columns;
}

// The order of the items of the gradient of a weight, each a tile of its rows times a panel of its columns: some panels
// meet all tiles before the next panels do.
struct ItemOrder {
  int64_t tiles, panels, at_once;
  struct Item {
    int64_t tile, panel;
    int64_t run;  // so many items from this one on have this tile and the panels that follow
  };
  int64_t count() const { return tiles * panels; }
  Item at(int64_t item) const {
    const int64_t first = item / (tiles * at_once) * at_once, together = std::min(at_once, panels - first);
    const int64_t place = item - first * tiles;
    return {place / together, first + place % together, together - place % together};
  }
};

// Panels that stay in the cache together. Where a thread has few of the `items`, so many as let it read about as many
// columns of x and the states as of the gate gradients: other threads' caches have most of both. word_size: of a word
// of a panel.
inline int64_t panels_at_once(int64_t items, int threads, int64_t tile_rows, int64_t panel_columns, int64_t word_size) {
  const int64_t most = cache_of_core() / 2 / (kLongestSum * panel_columns * word_size);
  int64_t panels = 1;
  while (panels < most && panels * panels * panel_columns * threads < items * tile_rows) panels *= 2;
  return panels;
}

// First of `count` items that belongs to `thread`; that of `thread + 1` ends its share.
inline int64_t share(int64_t count, int thread, int threads) { return count * thread / threads; }

// The kernels of the instruction set in use. operand_t is acc_type<scalar_t>; or bfloat16 for bfloat16 tensors where
// `multiplies_bf16()`; or, for float32 where `has_tiles()`, bfloat16 or Part<2>.
template <typename scalar_t, typename operand_t>
FwdKernels<scalar_t, operand_t> fwd_kernels();
template <typename scalar_t, typename operand_t>
BwdKernels<scalar_t, operand_t> bwd_kernels();

// The kernels of each instruction set, see isa.h. Weak: null where a build leaves their file out.
#define GRU_DECLARE_KERNELS(isa)                                             \
  template <typename scalar_t, typename operand_t>                           \
  __attribute__((weak)) FwdKernels<scalar_t, operand_t> fwd_kernels_##isa(); \
  template <typename scalar_t, typename operand_t>                           \
  __attribute__((weak)) BwdKernels<scalar_t, operand_t> bwd_kernels_##isa();
GRU_DECLARE_KERNELS(portable)
#if defined(__x86_64__)
GRU_DECLARE_KERNELS(avx2)
GRU_DECLARE_KERNELS(avx512)
GRU_DECLARE_KERNELS(avx512_bf16)
GRU_DECLARE_KERNELS(avx512_amx_portable)
GRU_DECLARE_KERNELS(avx512_amx)
#endif
#undef GRU_DECLARE_KERNELS

}  // namespace gru_ext
