// What follows from the gate gradients of a chunk: the gradients of the weights and of x, for one thread of several.
//
// Of all rows of a chunk at once. The gradients of the weights sum over rows: dW (3H, I) = dgates' x. Their left
// operand is packed tile by tile as it is used, their right one, the panels, once for all threads before the
// recurrence. dx (rows, I) = dgates W needs no packing but that of W.
#pragma once

#include "cpu/kernels/kernels.h"
#include "cpu/kernels/lanes_body.h"
#include "cpu/kernels/pack_body.h"
#include "cpu/kernels/panel_product_body.h"
#include "cpu/kernels/steps_body.h"

namespace gru_ext {
namespace {

// Where the panels of x, of the previous states and, reset gate before, of r times them lie.
template <typename scalar_t, typename operand_t>
struct ChunkPanels {
  using acc_t = acc_type<scalar_t>;
  static constexpr int columns = kPanelColumns<acc_t>;
  int64_t size;        // of a panel, in words
  int64_t of_x, of_h;  // panels
  acc_t *x_panels, *h_panels, *reset_panels;

  explicit ChunkPanels(const BwdChunk<scalar_t, operand_t>& p)
      : size(words_of<acc_t, operand_t>(p.rows) * columns),
        of_x((p.I + columns - 1) / columns),
        of_h((p.H + columns - 1) / columns),
        x_panels(p.panels),
        h_panels(p.panels + of_x * size),
        reset_panels(h_panels + of_h * size) {}
};

template <typename scalar_t, typename operand_t>
void pack_rows(const BwdChunk<scalar_t, operand_t>& p, int thread, int threads) {
  if (!p.need_dweights) return;
  const ChunkPanels<scalar_t, operand_t> panels(p);
  const int64_t begin = share(panels.of_h, thread, threads), end = share(panels.of_h, thread + 1, threads);
  const bool masked_states = p.masks.recurrent != nullptr;
  if (masked_states) mask_previous_states(p, begin * panels.columns, std::min(p.H, end * panels.columns));
  const auto x = [&](int64_t row) { return p.x[row]; };
  const auto h_prev = [&](int64_t row) { return masked_states ? p.operand + row * p.H : p.h_prev[row]; };
  pack_panels<scalar_t, operand_t>(x, p.rows, p.I, share(panels.of_x, thread, threads),
                                   share(panels.of_x, thread + 1, threads), panels.x_panels);
  pack_panels<scalar_t, operand_t>(h_prev, p.rows, p.H, begin, end, panels.h_panels);
  if (p.reset_after) return;
  const auto reset = [&](int64_t row) { return ProductOfRows<scalar_t>{p.gates + row * 3 * p.H, h_prev(row)}; };
  pack_panels<scalar_t, operand_t>(reset, p.rows, p.H, begin, end, panels.reset_panels);
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

// Some rows of the gradient of a weight: target (count, columns) is, or has added to it, the columns
// [first, first + count) of dgates, transposed, times the panels. Column `first` is row `first_row` of the target;
// after its last row comes row 0.
template <typename acc_t, typename operand_t>
struct WeightGradient {
  int64_t first, count, first_row;
  const acc_t* panels;
  int64_t columns;
  acc_t* target;

  static constexpr int kTileColumns = PackedColumns<acc_t, operand_t>::kMost;
  int64_t tiles() const { return (count + kTileColumns - 1) / kTileColumns; }
  int64_t panel_count() const { return (columns + kPanelColumns<acc_t> - 1) / kPanelColumns<acc_t>; }
  int64_t items() const { return tiles() * panel_count(); }
  acc_t* row_of(int64_t column) const {
    const int64_t row = column + first_row;
    return target + (row < count ? row : row - count) * columns;
  }
};

// The items [first_item, last_item) of a gradient, over the rows [begin, end) of dgates and the panels.
template <typename scalar_t, typename operand_t>
void weight_gradient(const BwdChunk<scalar_t, operand_t>& p,
                     const WeightGradient<acc_type<scalar_t>, operand_t>& gradient, int64_t panel_size, int64_t begin,
                     int64_t end, int64_t first_item, int64_t last_item) {
  using acc_t = acc_type<scalar_t>;
  using Columns = PackedColumns<acc_t, operand_t>;
  constexpr int tile_rows = Columns::kMost;
  constexpr int width = kPanelColumns<acc_t>;
  const int64_t panel_count = gradient.panel_count(), tiles = gradient.tiles(), columns = gradient.columns;
  const bool add = !p.first || begin > 0;
  Columns tile;
  alignas(64) acc_t product[tile_rows * width];
  int64_t packed_tile = -1;
  // So many panels as stay in the cache meet all tiles before the next ones do.
  constexpr int64_t at_once = kCacheOfCore / 2 / static_cast<int64_t>(kLongestSum * width * sizeof(acc_t));
  for (int64_t item = first_item; item < last_item; ++item) {
    const int64_t first_panel = item / (tiles * at_once) * at_once;
    const int64_t panels_together = std::min(at_once, panel_count - first_panel);
    const int64_t place = item - first_panel * tiles;
    const int64_t row = place / panels_together * tile_rows;
    const int64_t panel = first_panel + place % panels_together;
    const int64_t rows = std::min<int64_t>(tile_rows, gradient.count - row);
    if (row != packed_tile) {
      const operand_t* const first = p.dgates + begin * p.dgates_stride + gradient.first + row;
      tile.pack([&](int64_t k) { return first + k * p.dgates_stride; }, p.dgates_stride, end - begin, rows);
      packed_tile = row;
    }
    // Left to `put_row`, the lines of the target would be waited for.
    for (int64_t m = 0; m < rows; ++m) {
      const acc_t* target = gradient.row_of(row + m) + panel * width;
      for (int c = 0; c < width; c += VectorMath<acc_t>::lanes) __builtin_prefetch(target + c, 1);
    }
    const acc_t* const rows_of_panel = gradient.panels + panel * panel_size + words_of<acc_t, operand_t>(begin) * width;
    tile.multiply(end - begin, rows, rows_of_panel, product);
    for (int64_t m = 0; m < rows; ++m) {
      put_row(product + m * width, std::min<int64_t>(width, columns - panel * width), add,
              gradient.row_of(row + m) + panel * width);
    }
  }
}

// The thread's share of dx (rows, I) = dgates (rows, 3H) times W (3H, I).
template <typename scalar_t, typename operand_t>
void input_gradient(const BwdChunk<scalar_t, operand_t>& p, int thread, int threads) {
  using acc_t = acc_type<scalar_t>;
  constexpr int tile_rows = kMostRows<operand_t, kPanelVectors>;
  constexpr int width = kPanelColumns<acc_t>;
  const int64_t panel_size = words_of<acc_t, operand_t>(3 * p.H) * width;
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
                                             static_cast<const acc_t*>(nullptr), 0, product, width,
                                             are_far(3 * p.H * p.I * sizeof(operand_t)));
    for (int64_t m = 0; m < rows; ++m) {
      put_row(product + m * width, std::min<int64_t>(width, p.I - panel * width), p.add_to_dx,
              p.dx[row + m] + panel * width);
    }
  }
}

template <typename scalar_t, typename operand_t>
void weight_gradients(const BwdChunk<scalar_t, operand_t>& p, int thread, int threads) {
  const ChunkPanels<scalar_t, operand_t> panels(p);
  const int64_t H = p.H, I = p.I;
  WeightGradient<acc_type<scalar_t>, operand_t> parts[] = {
      {0, 3 * H, 2 * H, panels.x_panels, I, p.dweight_ih},          // n, r and z of W
      {p.dgates_of_h, 3 * H, 0, panels.h_panels, H, p.dweight_hh},  // r, z and q of R
      {0, 0, 0, panels.reset_panels, H, p.dweight_hh + 2 * H * H},  // n of R: reset gate before
  };
  if (!p.reset_after) {
    parts[1].count = 2 * H;
    parts[2].count = H;
  }
  int64_t items = 0;
  for (const auto& part : parts) items += part.items();
  for (int64_t begin = 0; begin < p.rows; begin += kLongestSum) {
    int64_t first = share(items, thread, threads), last = share(items, thread + 1, threads);
    for (const auto& part : parts) {
      const int64_t count = part.items();
      weight_gradient(p, part, panels.size, begin, std::min(p.rows, begin + kLongestSum),
                      std::clamp<int64_t>(first, 0, count), std::clamp<int64_t>(last, 0, count));
      first -= count;
      last -= count;
    }
  }
}

template <typename scalar_t, typename operand_t>
void gradients(const BwdChunk<scalar_t, operand_t>& p, int thread, int threads) {
  const TilesInUse<TilesOf<operand_t>> in_use;
  if (p.need_dweights) weight_gradients(p, thread, threads);
  if (p.need_dx) input_gradient(p, thread, threads);
}

}  // namespace
}  // namespace gru_ext
