// How rows are cut into tiles, and gates that wait for the products of the next tile.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/kernels/inline.h"

namespace gru_ext {
namespace {

// The first row of one of so many tiles, which are as equal as multiples allow: 9 rows are 4 and 5, not 8 and 1.
template <int multiple = 1>
int64_t first_of_tile(int64_t rows, int64_t tile, int64_t tiles) {
  return std::min(rows, (rows * tile / tiles + multiple - 1) / multiple * multiple);
}

// Calls `body(first, count)` for tiles of at most `largest` rows.
template <int largest, int multiple = 1, typename Body>
GRU_INLINE void for_each_tile(int64_t rows, const Body& body) {
  static_assert(largest % multiple == 0);
  const int64_t tiles = (rows + largest - 1) / largest;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t first = first_of_tile<multiple>(rows, tile, tiles);
    body(first, first_of_tile<multiple>(rows, tile + 1, tiles) - first);
  }
}

// The gates of some rows and units, which are computed piece by piece between the products of the next tiles: the
// tiles' unit and the vectors' then work at the same time. By itself a processor looks ahead over the gates of a few
// rows. `gates(place, row, rows)`, where `place` says which units.
template <typename Place, typename Gates>
class WaitingGates {
 public:
  // Pieces are of whole blocks of so many rows, a power of 2, but for the last.
  explicit WaitingGates(const Gates& gates, int64_t block = 1) : gates_(gates), block_(block) {}

  // Computes what is left of those before, and puts others off: of the rows [first, last).
  void put_off(Place place, int64_t first, int64_t last) {
    advance(1, 1);
    place_ = place;
    first_ = next_ = first;
    last_ = last;
  }
  // Computes more of them, in proportion to `done` of `all`. Not inlined: a product has several places for it.
  __attribute__((noinline)) void advance(int64_t done, int64_t all) {
    const int64_t until = done == all ? last_ : first_ + ((last_ - first_) * done / all & -block_);
    if (until <= next_) return;
    gates_(place_, next_, until - next_);
    next_ = until;
  }

 private:
  const Gates& gates_;
  const int64_t block_;
  Place place_{};
  int64_t first_ = 0, next_ = 0, last_ = 0;
};

// For tiles of at most `most_rows` rows of each panel [0, panels): `product(panel, row, rows, out, between)`, out
// (rows) of `Row`; and while the next product runs, `gates(panel, row, rows, out)` of its rows, some at a time.
template <typename Row, int most_rows, int multiple, typename Product, typename Gates>
GRU_INLINE void products_between_gates(int64_t panels, int64_t rows, const Product& product, const Gates& gates) {
  struct Place {
    int64_t panel, first;
    const Row* out;
  };
  const auto gates_at = [&](const Place& at, int64_t row, int64_t count)
                            GRU_INLINED { gates(at.panel, row, count, at.out + (row - at.first)); };
  alignas(64) Row out[2][most_rows];
  WaitingGates<Place, decltype(gates_at)> waiting(gates_at);
  bool odd = false;
  for (int64_t panel = 0; panel < panels; ++panel) {
    for_each_tile<most_rows, multiple>(rows, [&](int64_t first, int64_t count) {
      product(panel, first, count, out[odd],
              [&](int64_t done, int64_t all) GRU_INLINED { waiting.advance(done, all); });
      waiting.put_off({panel, first, out[odd]}, first, first + count);
      odd = !odd;
    });
  }
  waiting.advance(1, 1);
}

}  // namespace
}  // namespace gru_ext
