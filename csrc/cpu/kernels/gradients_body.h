// What follows from the gate gradients of a chunk: the gradients of the weights and of x, for one thread of several.
//
// Of all rows of a chunk at once. The gradients of the weights sum over rows: dW (3H, I) = dgates' x. Their left
// operand is packed tile by tile as it is used, their right one, the panels, once for all threads before the
// recurrence. dx (rows, I) = dgates W needs no packing but that of W.
#pragma once

#include "cpu/kernels/kernels.h"
#include "cpu/kernels/lanes_body.h"
#include "cpu/kernels/pack_body.h"
#include "cpu/kernels/product_body.h"

namespace gru_ext {
namespace {

// Where the panels of x, of the previous states and, reset gate before, of r times them lie.
template <typename scalar_t, typename operand_t>
struct ChunkPanels {
  using acc_t = acc_type<scalar_t>;
  static constexpr int columns = kPanelColumns<acc_t>;
  static constexpr int values = packed_values<scalar_t, operand_t>;
  int64_t size;        // of a panel, in words
  int64_t of_x, of_h;  // panels
  acc_t *x_panels, *h_panels, *reset_panels;

  explicit ChunkPanels(const BwdChunk<scalar_t, operand_t>& p)
      : size((p.rows + values - 1) / values * columns),
        of_x((p.I + columns - 1) / columns),
        of_h((p.H + columns - 1) / columns),
        x_panels(p.panels),
        h_panels(p.panels + of_x * size),
        reset_panels(h_panels + of_h * size) {}
};

// `masked_states`: whether the thread has filled its columns of p.operand.
template <typename scalar_t, typename operand_t>
void pack_rows_of_chunk(const BwdChunk<scalar_t, operand_t>& p, bool masked_states, int thread, int threads) {
  const ChunkPanels<scalar_t, operand_t> panels(p);
  const auto x = [&](int64_t row) { return p.x[row]; };
  const auto h_prev = [&](int64_t row) { return masked_states ? p.operand + row * p.H : p.h_prev[row]; };
  pack_panels<scalar_t, operand_t>(x, p.rows, p.I, share(panels.of_x, thread, threads),
                                   share(panels.of_x, thread + 1, threads), panels.x_panels);
  pack_panels<scalar_t, operand_t>(h_prev, p.rows, p.H, share(panels.of_h, thread, threads),
                                   share(panels.of_h, thread + 1, threads), panels.h_panels);
  if (p.reset_after) return;
  const auto reset = [&](int64_t row) { return ProductOfRows<scalar_t>{p.gates + row * 3 * p.H, h_prev(row)}; };
  pack_panels<scalar_t, operand_t>(reset, p.rows, p.H, share(panels.of_h, thread, threads),
                                   share(panels.of_h, thread + 1, threads), panels.reset_panels);
}

// `count` values of a row of a tile, stored to or added to `target`.
template <typename acc_t, typename T>
inline __attribute__((always_inline)) void put_row(const acc_t* tile, int64_t count, bool add, T* target) {
  constexpr int lanes = VectorMath<acc_t>::lanes;
  for (int64_t c = 0; c < count; c += lanes) {
    const int64_t part = std::min<int64_t>(lanes, count - c);
    auto value = load<acc_t>(tile + c, lanes);
    if (add) value += load<acc_t>(target + c, part);
    store<acc_t>(target + c, value, part);
  }
}

// The thread's share of target (count, columns) = or += the columns [first, first + count) of dgates, transposed, times
// the rows [begin, end) of the panels.
template <typename scalar_t, typename operand_t>
void weight_gradient(const BwdChunk<scalar_t, operand_t>& p, int64_t begin, int64_t end, int64_t first, int64_t count,
                     const acc_type<scalar_t>* panels, int64_t panel_size, int64_t columns, acc_type<scalar_t>* target,
                     int thread, int threads) {
  using acc_t = acc_type<scalar_t>;
  constexpr int tile_rows = kTileRows<kPanelVectors>;
  constexpr int width = kPanelColumns<acc_t>;
  constexpr int values = packed_values<scalar_t, operand_t>;
  constexpr Layout layout{values, tile_rows * values};
  const int64_t panel_count = (columns + width - 1) / width;
  const int64_t tiles = (count + tile_rows - 1) / tile_rows;
  const bool add = !p.first || begin > 0;
  alignas(64) operand_t tile[tile_rows * kLongestSum];
  alignas(64) acc_t product[tile_rows * width];
  const auto dgates = [&](int64_t row) { return p.dgates + (begin + row) * p.dgates_stride + first; };
  int64_t packed_tile = -1;
  // So many panels as stay in the cache meet all tiles before the next ones do.
  constexpr int64_t at_once = kCacheOfCore / 2 / static_cast<int64_t>(kLongestSum * width * sizeof(acc_t));
  for (int64_t item = share(tiles * panel_count, thread, threads);
       item < share(tiles * panel_count, thread + 1, threads); ++item) {
    const int64_t first_panel = item / (tiles * at_once) * at_once;
    const int64_t panels_together = std::min(at_once, panel_count - first_panel);
    const int64_t place = item - first_panel * tiles;
    const int64_t row = place / panels_together * tile_rows;
    const int64_t panel = first_panel + place % panels_together;
    const int64_t rows = std::min<int64_t>(tile_rows, count - row);
    if (row != packed_tile) {
      pack_panel<operand_t, tile_rows, values>(dgates, end - begin, row, rows, tile);
      packed_tile = row;
    }
    product_tile<acc_t, operand_t, tile_rows, kPanelVectors, Start::zero>(
        tile, panels + panel * panel_size + begin / values * width, layout,
        (end - begin + values - 1) / values * values, nullptr, 0, product, width);
    for (int64_t m = 0; m < rows; ++m) {
      put_row(product + m * width, std::min<int64_t>(width, columns - panel * width), add,
              target + (row + m) * columns + panel * width);
    }
  }
}

// The thread's share of dx (rows, I) = dgates (rows, 3H) times W (3H, I).
template <typename scalar_t, typename operand_t>
void input_gradient(const BwdChunk<scalar_t, operand_t>& p, int thread, int threads) {
  using acc_t = acc_type<scalar_t>;
  constexpr int tile_rows = kTileRows<kPanelVectors>;
  constexpr int width = kPanelColumns<acc_t>;
  constexpr int values = packed_values<scalar_t, operand_t>;
  const int64_t panel_size = (3 * p.H + values - 1) / values * width;
  const int64_t panels = (p.I + width - 1) / width;
  const int64_t tiles = (p.rows + tile_rows - 1) / tile_rows;
  alignas(64) acc_t product[tile_rows * width];
  for (int64_t item = share(tiles * panels, thread, threads); item < share(tiles * panels, thread + 1, threads);
       ++item) {
    const int64_t row = p.rows * (item / panels) / tiles;
    const int64_t rows = p.rows * (item / panels + 1) / tiles - row;
    const int64_t panel = item % panels;
    product_rows<kPanelVectors, Start::zero>(rows, p.dgates + row * p.dgates_stride, p.dgates_stride,
                                             static_cast<const acc_t*>(p.weight_ih) + panel * panel_size, 3 * p.H,
                                             static_cast<const acc_t*>(nullptr), 0, product, width);
    for (int64_t m = 0; m < rows; ++m) {
      put_row(product + m * width, std::min<int64_t>(width, p.I - panel * width), p.add_to_dx,
              p.dx[row + m] + panel * width);
    }
  }
}

template <typename scalar_t, typename operand_t>
void gradients(const BwdChunk<scalar_t, operand_t>& p, int thread, int threads) {
  if (p.need_dweights) {
    const ChunkPanels<scalar_t, operand_t> panels(p);
    for (int64_t begin = 0; begin < p.rows; begin += kLongestSum) {
      const int64_t end = std::min(p.rows, begin + kLongestSum);
      const auto weight_ih = [&](int64_t first, int64_t count, int64_t row) {
        weight_gradient(p, begin, end, first, count, panels.x_panels, panels.size, p.I, p.dweight_ih + row * p.I,
                        thread, threads);
      };
      weight_ih(/*first=*/p.H, /*count=*/2 * p.H, /*row=*/0);  // r and z
      weight_ih(/*first=*/0, /*count=*/p.H, /*row=*/2 * p.H);  // n
      const auto weight_hh = [&](int64_t first, int64_t count, const auto* of_h, int64_t row) {
        weight_gradient(p, begin, end, first, count, of_h, panels.size, p.H, p.dweight_hh + row * p.H, thread, threads);
      };
      if (p.reset_after) {
        weight_hh(/*first=*/p.dgates_of_h, /*count=*/3 * p.H, panels.h_panels, /*row=*/0);  // r, z and q
      } else {
        weight_hh(/*first=*/p.H, /*count=*/2 * p.H, panels.h_panels, /*row=*/0);      // r and z
        weight_hh(/*first=*/0, /*count=*/p.H, panels.reset_panels, /*row=*/2 * p.H);  // n
      }
    }
  }
  if (p.need_dx) input_gradient(p, thread, threads);
}

}  // namespace
}  // namespace gru_ext
