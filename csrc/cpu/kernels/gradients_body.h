// What follows from the gate gradients of a chunk: the gradients of the weights and of x, for one thread of several.
//
// Of all rows of a chunk at once; of several chunks one after another, in the order in which their sums are added up.
// The gradients of the weights sum over rows: dW (3H, I) = dgates' x. Their left operand is packed tile by tile as it
// is used, their right one, the panels, once for all threads before the recurrence. dx (rows, I) = dgates W needs no
// packing but that of W.
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

// The items of a list of things that belong to a thread: those of one thing after another.
class ShareOfItems {
 public:
  ShareOfItems(int64_t items, int thread, int threads)
      : first_(share(items, thread, threads)), last_(share(items, thread + 1, threads)) {}

  struct Range {
    int64_t first, last;
  };
  // Of the next thing, which has so many.
  Range next(int64_t items) {
    const Range range{std::clamp<int64_t>(first_, 0, items), std::clamp<int64_t>(last_, 0, items)};
    first_ -= items;
    last_ -= items;
    return range;
  }

 private:
  int64_t first_, last_;
};

// The sum of items_of(p) over some chunks.
template <typename Chunk, typename ItemsOf>
int64_t sum_of(const Chunk* chunks, int64_t count, const ItemsOf& items_of) {
  int64_t sum = 0;
  for (const Chunk* p = chunks; p < chunks + count; ++p) sum += items_of(*p);
  return sum;
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
  const auto items_of = [=](const auto& p) { return (p.rows + kPackedRows - 1) / kPackedRows * runs; };
  ShareOfItems items(sum_of(chunks, count, items_of), thread, threads);
  for (const auto* p = chunks; p < chunks + count; ++p) {
    const auto own = items.next(items_of(*p));
    for (int64_t item = own.first; item < own.last; ++item) {
      const int64_t first = item / runs * kPackedRows, last = std::min(p->rows, first + kPackedRows);
      const bool is_x = item % runs < runs_of_x;
      const int64_t begin = (item % runs - (is_x ? 0 : runs_of_x)) * kPanelsAtOnce;
      const int64_t end = std::min(is_x ? panels.of_x : panels.of_h, begin + kPanelsAtOnce);
      is_x ? pack_x(*p, first, last, begin, end) : pack_states(*p, first, last, begin, end);
    }
  }
}

// `count` values of a row of a tile to `target`, plus those of `before`, where it is not null.
template <typename acc_t, typename Before, typename T>
GRU_INLINE void put_row(const acc_t* tile, int64_t count, const Before* before, T* target) {
  constexpr int lanes = VectorMath<acc_t>::lanes;
  for (int64_t c = 0; c < count; c += lanes) {
    const int64_t part = std::min<int64_t>(lanes, count - c);
    auto value = load<acc_t>(tile + c, lanes);
    if (before != nullptr) value += load<acc_t>(before + c, part);
    store<acc_t>(target + c, value, part);
  }
}

// Some rows of the gradient of a weight, (count, columns): the columns [first, first + count) of dgates, transposed,
// times the panels. Column `first` is row `first_row` of the gradient; after its last row comes row 0. Products of rows
// are added up in `sums`; with the last ones they go to `target`.
template <typename scalar_t, typename operand_t>
struct WeightGradient {
  using acc_t = acc_type<scalar_t>;
  int64_t first, count, first_row;
  const acc_t* panels;
  int64_t columns;
  acc_t* sums;
  scalar_t* target;

  static constexpr int kTileColumns = PackedColumns<acc_t, operand_t>::kMost;
  static constexpr int64_t kTileSize = kTileColumns * kPanelColumns<acc_t>;
  ItemOrder order(int64_t at_once) const {
    return {(count + kTileColumns - 1) / kTileColumns, (columns + kPanelColumns<acc_t> - 1) / kPanelColumns<acc_t>,
            at_once};
  }
  int64_t items() const { return order(1).count(); }
  int64_t place_of(int64_t column) const {
    const int64_t row = column + first_row;
    return (row < count ? row : row - count) * columns;
  }
};

// The gradients of the weights.
template <typename scalar_t, typename operand_t>
std::array<WeightGradient<scalar_t, operand_t>, 3> weight_parts(const BwdChunk<scalar_t, operand_t>& p) {
  const ChunkPanels<scalar_t, operand_t> panels(p);
  const int64_t H = p.H, of_candidate = p.reset_after ? 0 : H;
  return {{
      {0, 3 * H, 2 * H, panels.x_panels, p.I, p.sums_ih, p.dweight_ih},                       // n, r and z of W
      {p.dgates_of_h, 3 * H - of_candidate, 0, panels.h_panels, H, p.sums_hh, p.dweight_hh},  // r, z and q of R
      // n of R: reset gate before
      {0, of_candidate, 0, panels.reset_panels, H, p.sums_hh + 2 * H * H, p.dweight_hh + 2 * H * H},
  }};
}

// Of all parts.
template <typename Parts>
int64_t items_of(const Parts& parts) {
  int64_t items = 0;
  for (const auto& part : parts) items += part.items();
  return items;
}

// Sums over kLongestSum rows of a chunk.
inline int64_t ranges_of(int64_t rows) { return (rows + kLongestSum - 1) / kLongestSum; }

// Products of up to so many rows are less work than to put them where they go: they are computed there, row by row.
constexpr int64_t kFewRows = 2;

// The first `columns` values of a row of the gradient of a weight: the K values of `column`, `stride` apart, times K
// rows of the panels. `before` as in `put_row`.
template <typename acc_t, typename T>
void put_row_of_few(const acc_t* column, int64_t stride, int64_t K, const acc_t* panels, int64_t panel_size,
                    int64_t columns, const acc_t* before, T* target) {
  using Vector = VectorOf<acc_t>;
  constexpr int lanes = VectorMath<acc_t>::lanes;
  constexpr int width = kPanelColumns<acc_t>;
  for (int64_t c = 0; c < columns; c += lanes) {
    const acc_t* const words = panels + c / width * panel_size + c % width;
    Vector sum{};
    for (int64_t k = 0; k < K; ++k) sum += (column[k * stride] - Vector{}) * load<acc_t>(words + k * width, lanes);
    const int64_t count = std::min<int64_t>(lanes, columns - c);
    if (before != nullptr) sum += load<acc_t>(before + c, count);
    store<acc_t>(target + c, sum, count);
  }
}

// Some items of a gradient, over the rows [begin, end) of dgates and the panels. `products`:
// (tiles, panels), where they go; null for the gradient itself.
template <typename scalar_t, typename operand_t>
void weight_gradient(const BwdChunk<scalar_t, operand_t>& p, const WeightGradient<scalar_t, operand_t>& gradient,
                     int64_t panel_size, int64_t begin, int64_t end, int64_t at_once, ShareOfItems::Range items,
                     acc_type<scalar_t>* products) {
  using acc_t = acc_type<scalar_t>;
  using Columns = PackedColumns<acc_t, operand_t>;
  constexpr int tile_rows = Columns::kMost;
  constexpr int width = kPanelColumns<acc_t>;
  const ItemOrder order = gradient.order(at_once);
  const int64_t columns = gradient.columns;
  const bool add = !p.first || begin > 0, last = p.last && end == p.rows;
  Columns tile;
  alignas(64) acc_t product[tile_rows * width];
  int64_t packed_tile = -1;
  for (int64_t item = items.first, count = 1; item < items.last; item += count) {
    const auto [tile_of_item, panel, run] = order.at(item);
    const int64_t row = tile_of_item * tile_rows;
    const int64_t rows = std::min<int64_t>(tile_rows, gradient.count - row);
    if constexpr (std::is_same_v<acc_t, operand_t>) {
      if (products == nullptr && end - begin <= kFewRows) {
        count = std::min(run, items.last - item);
        const auto put = [&](auto* target) {
          for (int64_t m = row; m < row + rows; ++m) {
            const int64_t place = gradient.place_of(m) + panel * width;
            put_row_of_few(p.dgates + begin * p.dgates_stride + gradient.first + m, p.dgates_stride, end - begin,
                           gradient.panels + panel * panel_size + begin * width, panel_size,
                           std::min<int64_t>(count * width, columns - panel * width),
                           add ? gradient.sums + place : nullptr, target + place);
          }
        };
        last ? put(gradient.target) : put(gradient.sums);
        continue;
      }
    }
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
    const auto put = [&](auto* target) {
      // Left to `put_row`, the lines of the target would be waited for.
      for (int64_t m = 0; m < rows; ++m) {
        const auto* place = target + gradient.place_of(row + m) + panel * width;
        for (int c = 0; c < width; c += VectorMath<acc_t>::lanes) __builtin_prefetch(place + c, 1);
      }
      tile.multiply(end - begin, rows, panel_rows, product);
      for (int64_t m = 0; m < rows; ++m) {
        const int64_t place = gradient.place_of(row + m) + panel * width;
        put_row(product + m * width, std::min<int64_t>(width, columns - panel * width),
                add ? gradient.sums + place : nullptr, target + place);
      }
    };
    last ? put(gradient.target) : put(gradient.sums);
  }
}

// Rows of a tile of dx, and the items of a chunk: a tile of rows times a panel each. Some tiles meet a panel one after
// the other.
template <typename operand_t>
constexpr int64_t kInputTileRows = kMostRows<operand_t, kPanelVectors>;
constexpr int64_t kTilesAtOnce = 8;
template <typename scalar_t, typename operand_t>
int64_t items_of_dx(const BwdChunk<scalar_t, operand_t>& p) {
  const int64_t tiles = (p.rows + kInputTileRows<operand_t> - 1) / kInputTileRows<operand_t>;
  return p.need_dx ? tiles * ((p.I + kPanelColumns<acc_type<scalar_t>> - 1) / kPanelColumns<acc_type<scalar_t>>) : 0;
}

// Some items of dx (rows, I) = dgates (rows, 3H) times W (3H, I).
template <typename scalar_t, typename operand_t>
void input_gradient(const BwdChunk<scalar_t, operand_t>& p, ShareOfItems::Range items) {
  using acc_t = acc_type<scalar_t>;
  constexpr int64_t tile_rows = kInputTileRows<operand_t>;
  constexpr int width = kPanelColumns<acc_t>;
  const int64_t panels = (p.I + width - 1) / width;
  const int64_t tiles = (p.rows + tile_rows - 1) / tile_rows;
  const auto row_of = [&](int64_t tile) { return p.rows * tile / tiles; };
  // product: (rows, columns), its rows `stride` apart.
  const auto put = [&](int64_t row, int64_t rows, int64_t column, int64_t columns, const acc_t* product,
                       int64_t stride) {
    for (int64_t m = 0; m < rows; ++m) {
      scalar_t* const dx = p.dx[row + m] + column;
      put_row(product + m * stride, columns, p.add_to_dx ? dx : nullptr, dx);
    }
  };
  if (p.packed) {
    const auto* const weights = static_cast<const acc_t*>(p.weight_ih);
    const int64_t panel_size = words_of<acc_t, operand_t>(3 * p.H) * width;
    const acc_t* const no_bias = nullptr;
    const ItemOrder order{panels, tiles, kTilesAtOnce};
    alignas(64) acc_t product[kTilesAtOnce * tile_rows * width];
    for (int64_t item = items.first, count; item < items.last; item += count) {
      const auto [panel, tile, run] = order.at(item);
      count = std::min(run, items.last - item);
      const int64_t row = row_of(tile), rows = row_of(tile + count) - row;
      product_rows<kPanelVectors, Start::zero>(rows, p.dgates + row * p.dgates_stride, p.dgates_stride,
                                               weights + panel * panel_size, 3 * p.H, no_bias, 0, product, width,
                                               are_far(3 * p.H * p.I * sizeof(operand_t)));
      put(row, rows, panel * width, std::min<int64_t>(width, p.I - panel * width), product, width);
    }
  } else if constexpr (std::is_same_v<acc_t, operand_t>) {  // others are always packed
    constexpr int64_t most = kPanelsAtOnce, stride = most * width;
    const auto* const weights = static_cast<const scalar_t*>(p.weight_ih);
    alignas(64) acc_t product[tile_rows * stride];
    for (int64_t item = items.first, count; item < items.last; item += count) {
      const int64_t tile = item / panels, panel = item % panels;
      count = std::min({most, items.last - item, panels - panel});
      const int64_t row = row_of(tile), rows = row_of(tile + 1) - row;
      const int64_t columns = std::min(count * width, p.I - panel * width);
      std::fill_n(product, rows * stride, acc_t(0));
      const auto add = [&](int64_t column, int64_t weight_row, int64_t K) {  // of dgates, and of W
        add_matrix_product(rows, p.dgates + row * p.dgates_stride + column, p.dgates_stride, weights + weight_row * p.I,
                           p.I, K, panel * width, columns, product, stride);
      };
      add(0, 2 * p.H, p.H);  // n
      add(p.H, 0, 2 * p.H);  // r and z
      put(row, rows, panel * width, columns, product, stride);
    }
  }
}

template <typename scalar_t, typename operand_t>
void weight_gradients(const BwdChunk<scalar_t, operand_t>& p, int thread, int threads) {
  using acc_t = acc_type<scalar_t>;
  using Part = WeightGradient<scalar_t, operand_t>;
  const auto parts = weight_parts(p);
  const ChunkPanels<scalar_t, operand_t> panels(p);
  const int64_t items = items_of(parts);
  const int64_t at_once = panels_at_once(items, threads, Part::kTileColumns, panels.columns, sizeof(acc_t));
  acc_t* const no_products = nullptr;
  for (int64_t begin = 0; begin < p.rows; begin += kLongestSum) {
    ShareOfItems own(items, thread, threads);
    for (const Part& part : parts) {
      weight_gradient(p, part, panels.size, begin, std::min(p.rows, begin + kLongestSum), at_once,
                      own.next(part.items()), no_products);
    }
  }
}

// Items of all ranges of rows, of which a thread has those of a few, and dx of about the same rows: it reads few rows.
template <typename scalar_t, typename operand_t>
void products(const BwdChunk<scalar_t, operand_t>* chunks, int64_t count, int thread, int threads) {
  using acc_t = acc_type<scalar_t>;
  using Part = WeightGradient<scalar_t, operand_t>;
  const TilesInUse<TilesOf<operand_t>> in_use;
  const int64_t items = items_of(weight_parts(*chunks));
  const int64_t ranges = sum_of(chunks, count, [](const auto& p) { return ranges_of(p.rows); });
  const int64_t at_once =
      panels_at_once(items * ranges, threads, Part::kTileColumns, kPanelColumns<acc_t>, sizeof(acc_t));
  ShareOfItems of_ranges(ranges * items, thread, threads);
  ShareOfItems of_dx(sum_of(chunks, count, items_of_dx<scalar_t, operand_t>), thread, threads);
  for (const auto* p = chunks; p < chunks + count; ++p) {
    const auto parts = weight_parts(*p);
    const int64_t panel_size = ChunkPanels<scalar_t, operand_t>(*p).size;
    acc_t* target = p->products;
    for (int64_t begin = 0; begin < p->rows; begin += kLongestSum) {
      for (const Part& part : parts) {
        weight_gradient(*p, part, panel_size, begin, std::min(p->rows, begin + kLongestSum), at_once,
                        of_ranges.next(part.items()), target);
        target += part.items() * Part::kTileSize;
      }
    }
    input_gradient(*p, of_dx.next(items_of_dx(*p)));
  }
}

// A tile of the gradient of a weight: the products of all ranges, in the order in which `weight_gradients` adds them
// up. `item`: of the part; `place`: of all parts, which have `items`.
template <typename scalar_t, typename operand_t>
void add_products(const BwdChunk<scalar_t, operand_t>* chunks, int64_t count,
                  const WeightGradient<scalar_t, operand_t>& part, int64_t item, int64_t place, int64_t items) {
  using acc_t = acc_type<scalar_t>;
  using Part = WeightGradient<scalar_t, operand_t>;
  constexpr int64_t width = kPanelColumns<acc_t>;
  constexpr int lanes = VectorMath<acc_t>::lanes;
  const int64_t panels = part.order(1).panels;
  const int64_t row = item / panels * Part::kTileColumns, column = item % panels * width;
  const int64_t rows = std::min<int64_t>(Part::kTileColumns, part.count - row);
  const int64_t columns = std::min(width, part.columns - column);
  alignas(64) acc_t sum[Part::kTileSize];
  bool add = !chunks->first;
  for (int64_t m = 0; m < rows && add; ++m) {
    for (int64_t c = 0; c < columns; c += lanes) {
      const auto old =
          load<acc_t>(part.sums + part.place_of(row + m) + column + c, std::min<int64_t>(lanes, columns - c));
      store<acc_t>(sum + m * width + c, old, lanes);
    }
  }
  for (const auto* p = chunks; p < chunks + count; ++p) {
    for (int64_t range = 0; range < ranges_of(p->rows); ++range) {
      const acc_t* product = p->products + (range * items + place) * Part::kTileSize;
      for (int64_t m = 0; m < rows; ++m) {
        put_row(product + m * width, width, add ? sum + m * width : nullptr, sum + m * width);
      }
      add = true;
    }
  }
  const auto put = [&](auto* target) {
    for (int64_t m = 0; m < rows; ++m) {
      put_row(sum + m * width, columns, static_cast<const acc_t*>(nullptr), target + part.place_of(row + m) + column);
    }
  };
  chunks[count - 1].last ? put(part.target) : put(part.sums);
}

template <typename scalar_t, typename operand_t>
void gradients(const BwdChunk<scalar_t, operand_t>* chunks, int64_t count, int thread, int threads) {
  const TilesInUse<TilesOf<operand_t>> in_use;
  if (chunks->products != nullptr) {
    const auto parts = weight_parts(*chunks);
    const int64_t items = items_of(parts);
    ShareOfItems own(items, thread, threads);
    int64_t before = 0;
    for (const auto& part : parts) {
      const auto [first, last] = own.next(part.items());
      for (int64_t item = first; item < last; ++item) add_products(chunks, count, part, item, before + item, items);
      before += part.items();
    }
    return;
  }
  ShareOfItems of_dx(sum_of(chunks, count, items_of_dx<scalar_t, operand_t>), thread, threads);
  for (const auto* p = chunks; p < chunks + count; ++p) {
    if (p->need_dweights) weight_gradients(*p, thread, threads);
    input_gradient(*p, of_dx.next(items_of_dx(*p)));
  }
}

}  // namespace
}  // namespace gru_ext
