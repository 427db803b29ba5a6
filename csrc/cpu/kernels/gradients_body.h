// What follows from the gate gradients of a chunk: the gradients of the weights and of x, for one thread of several.
//
// Of all rows of a chunk at once; of several chunks one after another, in the order in which their sums are added up. The gradients of the weights sum over rows: dW (3H, I) = dgates' x. Their left
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

// Calls `body(list[i], first, last)` with the items of each of a list that belong to the thread; `items_of(list[i])` is
// how many it has.
template <typename T, typename ItemsOf, typename Body>
inline __attribute__((always_inline)) void for_share_of_items(const T* list, int64_t count, int thread, int threads,
                                                              const ItemsOf& items_of, const Body& body) {
  int64_t items = 0;
  for (int64_t i = 0; i < count; ++i) items += items_of(list[i]);
  int64_t first = share(items, thread, threads), last = share(items, thread + 1, threads);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t own = items_of(list[i]);
    body(list[i], std::clamp<int64_t>(first, 0, own), std::clamp<int64_t>(last, 0, own));
    first -= own;
    last -= own;
  }
}

// Rows that a thread packs at a time, of some panels: whole words.
constexpr int64_t kPackedRows = 32;

// The rows [first, last) of the panels [begin, end) of x.
template <typename scalar_t, typename operand_t>
void pack_x(const BwdChunk<scalar_t, operand_t>& p, int64_t first, int64_t last, int64_t begin, int64_t end) {
  const auto x = [&](int64_t row) { return p.x[row]; };
  pack_panels<scalar_t, operand_t>(x, p.rows, p.I, first, last, begin, end,
                                   ChunkPanels<scalar_t, operand_t>(p).x_panels);
}

// Those of the previous states and, reset gate before, of r times them.
template <typename scalar_t, typename operand_t>
void pack_states(const BwdChunk<scalar_t, operand_t>& p, int64_t first, int64_t last, int64_t begin, int64_t end) {
  const ChunkPanels<scalar_t, operand_t> panels(p);
  const bool masked_states = p.masks.recurrent != nullptr;
  if (masked_states) {
    mask_previous_states(p, first, last, begin * panels.columns, std::min(p.H, end * panels.columns));
  }
  const auto h_prev = [&](int64_t row) { return masked_states ? p.operand + row * p.H : p.h_prev[row]; };
  pack_panels<scalar_t, operand_t>(h_prev, p.rows, p.H, first, last, begin, end, panels.h_panels);
  if (p.reset_after) return;
  const auto reset = [&](int64_t row) { return ProductOfRows<scalar_t>{p.gates + row * 3 * p.H, h_prev(row)}; };
  pack_panels<scalar_t, operand_t>(reset, p.rows, p.H, first, last, begin, end, panels.reset_panels);
}

template <typename scalar_t, typename operand_t>
void pack_rows(const BwdChunk<scalar_t, operand_t>* chunks, int64_t count, int thread, int threads) {
  if (!chunks->need_dweights) return;
  const ChunkPanels<scalar_t, operand_t> panels(*chunks);
  const int64_t runs_of_x = (panels.of_x + kPanelsAtOnce - 1) / kPanelsAtOnce;
  const int64_t runs = runs_of_x + (panels.of_h + kPanelsAtOnce - 1) / kPanelsAtOnce;
  for_share_of_items(
      chunks, count, thread, threads, [=](const auto& p) { return (p.rows + kPackedRows - 1) / kPackedRows * runs; },
      [&](const auto& p, int64_t first_item, int64_t last_item) {
        for (int64_t item = first_item; item < last_item; ++item) {
          const int64_t first = item / runs * kPackedRows, last = std::min(p.rows, first + kPackedRows);
          const bool is_x = item % runs < runs_of_x;
          const int64_t begin = (item % runs - (is_x ? 0 : runs_of_x)) * kPanelsAtOnce;
          const int64_t end = std::min(is_x ? panels.of_x : panels.of_h, begin + kPanelsAtOnce);
          is_x ? pack_x(p, first, last, begin, end) : pack_states(p, first, last, begin, end);
        }
      });
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
  static constexpr int64_t kTileSize = kTileColumns * kPanelColumns<acc_t>;
  ItemOrder order(int64_t at_once) const {
    return {(count + kTileColumns - 1) / kTileColumns, (columns + kPanelColumns<acc_t> - 1) / kPanelColumns<acc_t>,
            at_once};
  }
  int64_t items() const { return order(1).count(); }
  acc_t* row_of(int64_t column) const {
    const int64_t row = column + first_row;
    return target + (row < count ? row : row - count) * columns;
  }
};

// The gradients of the weights.
template <typename scalar_t, typename operand_t>
std::array<WeightGradient<acc_type<scalar_t>, operand_t>, 3> weight_parts(const BwdChunk<scalar_t, operand_t>& p) {
  const ChunkPanels<scalar_t, operand_t> panels(p);
  const int64_t H = p.H, of_candidate = p.reset_after ? 0 : H;
  return {{
      {0, 3 * H, 2 * H, panels.x_panels, p.I, p.dweight_ih},                       // n, r and z of W
      {p.dgates_of_h, 3 * H - of_candidate, 0, panels.h_panels, H, p.dweight_hh},  // r, z and q of R
      {0, of_candidate, 0, panels.reset_panels, H, p.dweight_hh + 2 * H * H},      // n of R: reset gate before
  }};
}

constexpr auto items_of_part = [](const auto& part) { return part.items(); };

// Of all parts.
template <typename Parts>
int64_t items_of(const Parts& parts) {
  int64_t items = 0;
  for (const auto& part : parts) items += part.items();
  return items;
}

// Sums over kLongestSum rows of a chunk.
inline int64_t ranges_of(int64_t rows) { return (rows + kLongestSum - 1) / kLongestSum; }

// The items [first_item, last_item) of a gradient, over the rows [begin, end) of dgates and the panels. `products`:
// (tiles, panels), where they go; null for the gradient itself.
template <typename scalar_t, typename operand_t>
void weight_gradient(const BwdChunk<scalar_t, operand_t>& p,
                     const WeightGradient<acc_type<scalar_t>, operand_t>& gradient, int64_t panel_size, int64_t begin,
                     int64_t end, int64_t at_once, int64_t first_item, int64_t last_item,
                     acc_type<scalar_t>* products) {
  using acc_t = acc_type<scalar_t>;
  using Columns = PackedColumns<acc_t, operand_t>;
  constexpr int tile_rows = Columns::kMost;
  constexpr int width = kPanelColumns<acc_t>;
  const ItemOrder order = gradient.order(at_once);
  const int64_t columns = gradient.columns;
  const bool add = !p.first || begin > 0;
  Columns tile;
  alignas(64) acc_t product[tile_rows * width];
  int64_t packed_tile = -1;
  for (int64_t item = first_item; item < last_item; ++item) {
    const auto [tile_of_item, panel] = order.at(item);
    const int64_t row = tile_of_item * tile_rows;
    const int64_t rows = std::min<int64_t>(tile_rows, gradient.count - row);
    if (row != packed_tile) {
      const operand_t* const first = p.dgates + begin * p.dgates_stride + gradient.first + row;
      tile.pack([&](int64_t k) { return first + k * p.dgates_stride; }, p.dgates_stride, end - begin, rows);
      packed_tile = row;
    }
    const acc_t* const panel_rows = gradient.panels + panel * panel_size + words_of<acc_t, operand_t>(begin) * width;
    if (products != nullptr) {
      tile.multiply(end - begin, rows, panel_rows,
                    products + (tile_of_item * order.panels + panel) * gradient.kTileSize);
      continue;
    }
    // Left to `put_row`, the lines of the target would be waited for.
    for (int64_t m = 0; m < rows; ++m) {
      const acc_t* target = gradient.row_of(row + m) + panel * width;
      for (int c = 0; c < width; c += VectorMath<acc_t>::lanes) __builtin_prefetch(target + c, 1);
    }
    tile.multiply(end - begin, rows, panel_rows, product);
    for (int64_t m = 0; m < rows; ++m) {
      put_row(product + m * width, std::min<int64_t>(width, columns - panel * width), add,
              gradient.row_of(row + m) + panel * width);
    }
  }
}

// Rows of a tile of dx.
template <typename operand_t>
constexpr int64_t kInputTileRows = kMostRows<operand_t, kPanelVectors>;

// The items [first_item, last_item) of dx (rows, I) = dgates (rows, 3H) times W (3H, I): a tile of rows times a panel.
template <typename scalar_t, typename operand_t>
void input_gradient(const BwdChunk<scalar_t, operand_t>& p, int64_t first_item, int64_t last_item) {
  using acc_t = acc_type<scalar_t>;
  constexpr int64_t tile_rows = kInputTileRows<operand_t>;
  constexpr int width = kPanelColumns<acc_t>;
  const int64_t panel_size = words_of<acc_t, operand_t>(3 * p.H) * width;
  const int64_t panels = (p.I + width - 1) / width;
  const int64_t tiles = (p.rows + tile_rows - 1) / tile_rows;
  alignas(64) acc_t product[tile_rows * width];
  for (int64_t item = first_item; item < last_item; ++item) {
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
  using acc_t = acc_type<scalar_t>;
  const auto parts = weight_parts(p);
  using Part = typename decltype(parts)::value_type;
  const ChunkPanels<scalar_t, operand_t> panels(p);
  const int64_t at_once = panels_at_once(items_of(parts), threads, Part::kTileColumns, panels.columns, sizeof(acc_t));
  acc_t* const no_products = nullptr;
  for (int64_t begin = 0; begin < p.rows; begin += kLongestSum) {
    for_share_of_items(parts.data(), parts.size(), thread, threads, items_of_part,
                       [&](const Part& part, int64_t first, int64_t last) {
                         weight_gradient(p, part, panels.size, begin, std::min(p.rows, begin + kLongestSum), at_once,
                                         first, last, no_products);
                       });
  }
}

// Items of all ranges of rows: a thread has mostly those of one or two ranges, of which it then reads all columns.
template <typename scalar_t, typename operand_t>
void weight_products(const BwdChunk<scalar_t, operand_t>* chunks, int64_t count, int thread, int threads) {
  using acc_t = acc_type<scalar_t>;
  using Part = WeightGradient<acc_t, operand_t>;
  const TilesInUse<TilesOf<operand_t>> in_use;
  const int64_t items = items_of(weight_parts(*chunks));
  int64_t ranges = 0;
  for (int64_t i = 0; i < count; ++i) ranges += ranges_of(chunks[i].rows);
  const int64_t at_once =
      panels_at_once(items * ranges, threads, Part::kTileColumns, kPanelColumns<acc_t>, sizeof(acc_t));
  for_share_of_items(
      chunks, count, thread, threads, [=](const auto& p) { return ranges_of(p.rows) * items; },
      [&](const auto& p, int64_t first, int64_t last) {
        const auto parts = weight_parts(p);
        const int64_t panel_size = ChunkPanels<scalar_t, operand_t>(p).size;
        for (int64_t range = first / items; range * items < last; ++range) {
          int64_t first_item = std::max(first - range * items, int64_t{0});
          int64_t last_item = std::min(last - range * items, items);
          acc_t* products = p.products + range * items * Part::kTileSize;
          for (const Part& part : parts) {
            const int64_t begin = range * kLongestSum, own = part.items();
            weight_gradient(p, part, panel_size, begin, std::min(p.rows, begin + kLongestSum), at_once,
                            std::clamp<int64_t>(first_item, 0, own), std::clamp<int64_t>(last_item, 0, own), products);
            first_item -= own;
            last_item -= own;
            products += own * Part::kTileSize;
          }
        }
      });
}

// The thread's share of the gradients of the weights: the products of all ranges, in the order in which
// `weight_gradients` adds them up.
template <typename scalar_t, typename operand_t>
void add_weight_products(const BwdChunk<scalar_t, operand_t>* chunks, int64_t count, int thread, int threads) {
  using acc_t = acc_type<scalar_t>;
  using Part = WeightGradient<acc_t, operand_t>;
  constexpr int64_t width = kPanelColumns<acc_t>;
  constexpr int lanes = VectorMath<acc_t>::lanes;
  const auto parts = weight_parts(*chunks);
  const int64_t items = items_of(parts);
  int64_t before = 0;  // items of the parts before
  alignas(64) acc_t sum[Part::kTileSize];
  for_share_of_items(
      parts.data(), parts.size(), thread, threads, items_of_part, [&](const Part& part, int64_t first, int64_t last) {
        for (int64_t item = first; item < last; ++item) {
          const int64_t panels = part.order(1).panels;
          const int64_t row = item / panels * Part::kTileColumns, column = item % panels * width;
          const int64_t rows = std::min<int64_t>(Part::kTileColumns, part.count - row);
          const int64_t columns = std::min(width, part.columns - column);
          bool add = !chunks->first;
          for (int64_t m = 0; m < rows && add; ++m) {
            for (int64_t c = 0; c < columns; c += lanes) {
              const auto old = load<acc_t>(part.row_of(row + m) + column + c, std::min<int64_t>(lanes, columns - c));
              store<acc_t>(sum + m * width + c, old, lanes);
            }
          }
          for (int64_t i = 0; i < count; ++i) {
            for (int64_t range = 0; range < ranges_of(chunks[i].rows); ++range) {
              const acc_t* product = chunks[i].products + (range * items + before + item) * Part::kTileSize;
              for (int64_t m = 0; m < rows; ++m) put_row(product + m * width, width, add, sum + m * width);
              add = true;
            }
          }
          for (int64_t m = 0; m < rows; ++m) {
            put_row(sum + m * width, columns, /*add=*/false, part.row_of(row + m) + column);
          }
        }
        before += part.items();
      });
}

template <typename scalar_t, typename operand_t>
void gradients(const BwdChunk<scalar_t, operand_t>* chunks, int64_t count, int thread, int threads) {
  const TilesInUse<TilesOf<operand_t>> in_use;
  if (chunks->products != nullptr) {
    add_weight_products(chunks, count, thread, threads);
  } else if (chunks->need_dweights) {
    for (int64_t i = 0; i < count; ++i) weight_gradients(chunks[i], thread, threads);
  }
  if (!chunks->need_dx) return;
  const int64_t panels = (chunks->I + kPanelColumns<acc_type<scalar_t>> - 1) / kPanelColumns<acc_type<scalar_t>>;
  for_share_of_items(
      chunks, count, thread, threads,
      [=](const auto& p) { return (p.rows + kInputTileRows<operand_t> - 1) / kInputTileRows<operand_t> * panels; },
      [](const auto& p, int64_t first, int64_t last) { input_gradient(p, first, last); });
}

}  // namespace
}  // namespace gru_ext
