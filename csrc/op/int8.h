// The operator `gru_int8`: one layer whose weights are int8, for inference.
//
// Letters and shapes as in layer.h; all floating tensors are float32. Both operands of a product are int8 with a scale
// for each row, chosen so that the row's largest magnitude becomes 127; the weights' scales were chosen once, those of
// x and of the state are chosen when the row is multiplied. The products of int8 are summed exactly.
//
// With `blocks` the layer is as many of H / blocks units side by side, as in blocks.h; each has scales of its own for
// its rows of the state. Packed weights then are those of each block, one after another.
//
//   weights   for each direction, packed by gru_ext.quantize.pack: weight_ih (G, 1 + ceil(I / 4), 3, 16) and weight_hh
//             (G, 1 + ceil(H / 4), 3, 16) int32, G = ceil(H / 16); then scale_ih (3H), scale_hh (3H) and, with biases,
//             bias_ih (3H), bias_hh (3H)
//
// Packed weights are the same on every machine. Along their second dimension: the sum of each row of weights; then,
// for each word of four columns, the four int8 of each row. Units beyond H and columns beyond K are zero.
#pragma once

#include <cstdint>

namespace gru_ext {

// Hidden units of a group of packed weights.
constexpr int64_t kInt8Units = 16;

}  // namespace gru_ext
