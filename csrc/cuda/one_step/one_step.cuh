// A plain layer of one time step and few rows, as in decoding, in one launch: both products, the gates, all directions.
// For every dtype. Such a call takes a launch and a pass over the weights, so the kernel reads each of these once, with
// many loads under way, and waits for nothing else.
//
// A block owns a hidden unit of a direction and a tile of kRows rows of the batch. The tiles of a unit are neighbours
// in the grid: all but one have its weights from the L2 cache. Some warps of a block share W x, the others R h: a warp
// takes windows of 512 bytes of a row of weights, of all three gates, and multiplies them with the rows of the tile;
// rows of weights or of x that do not begin at multiples of 16 bytes are loaded value by value, in smaller windows.
// Then the lanes of each warp add up what they have and, past the one barrier, a thread for each row adds up the warps
// and computes the cell.
//
// How many loads: memory of 4.8 TB/s gives each of 132 multiprocessors 36 bytes a nanosecond, some 700 ns after they
// were asked for, so that 25 KB must be under way there. A warp has two windows of three gates under way, 3 KB, and a
// product has a warp for every two windows of a row: where rows are short, and blocks few, all weights are under way at
// once. More than four warps it has not, so that a multiprocessor has several blocks: one loads while another adds up.
//
// Sums have a fixed order, which B does not change: a row has the same bits in a batch of any size. They are in the
// type that the dtype computes in: those of float32 are IEEE, never TF32.
#pragma once

#include <cstring>

#include "cell/cell.h"
#include "cuda/params.h"
#include "cuda/primitives.cuh"

namespace gru_ext {

constexpr int kOneStepRows = 8;   // of the largest tile
constexpr int kOneStepWarps = 4;  // of a product, at most
constexpr int kOneStepWindows = 2;
constexpr int kOneStepWindowBytes = 16 * device::kWarpSize;

// The part of a window that a lane has: 16 bytes side by side or, where rows are not aligned, every 32nd value. Of the
// latter, no more than leave registers for the sums.
template <typename scalar_t, bool kAligned>
struct LaneValues {
  static constexpr int kCount = !kAligned && sizeof(scalar_t) == 2 ? 4 : 16 / sizeof(scalar_t);
  scalar_t values[kCount];

  // Of the row at `row`, from its value `first` on; zero beyond its length.
  template <typename Load>
  GRU_DEVICE void load(const scalar_t* row, int64_t first, int64_t length, int64_t stride, const Load& load_vector) {
    const int lane = device::thread_index() % device::kWarpSize;
    const int64_t place = first + lane * (kAligned ? kCount : 1);
    const scalar_t* const p = row + place * stride;
    if constexpr (kAligned) {
      const device::u32x4 vector =
          place < length ? load_vector(reinterpret_cast<const device::u32x4*>(p)) : device::u32x4{0, 0, 0, 0};
      std::memcpy(values, &vector, sizeof values);
    } else {
      GRU_UNROLL
      for (int j = 0; j < kCount; ++j) {
        const int step = j * device::kWarpSize;
        values[j] = place + step < length ? device::load_global(p + step * stride) : scalar_t{};
      }
    }
  }
};

// Adds a warp's share of a product to its lanes' sums: warp `warp` of those that share the rows of weights from
// `weight` on, H rows apart, with `rows` rows of the operand from `operand` on. What the sums of further rows get is
// not used.
template <bool kAligned, int kRows, typename scalar_t, typename acc_t>
GRU_DEVICE void add_products(acc_t (&sums)[kRows][3], const GruOneStepProduct<scalar_t>& product,
                             const scalar_t* weight, int64_t H, const scalar_t* operand, int rows, int warp) {
  using Values = LaneValues<scalar_t, kAligned>;
  constexpr int kWindow = Values::kCount * device::kWarpSize;
  // One of eight rows, which are much to multiply, and of single values, which are many loads.
  constexpr int kWindows = kAligned && kRows < kOneStepRows ? kOneStepWindows : 1;
  const int64_t length = product.length, stride = int64_t{product.warps} * kWindow;
  const auto once = [](const device::u32x4* p) { return device::load_once(p); };
  const auto cached = [](const device::u32x4* p) { return device::load_global(p); };
  GRU_NO_UNROLL
  for (int64_t first = int64_t{warp} * kWindow; first < length; first += kWindows * stride) {
    Values weights[kWindows][3];
    GRU_UNROLL
    for (int i = 0; i < kWindows; ++i) {
      GRU_UNROLL
      for (int gate = 0; gate < 3; ++gate) {
        weights[i][gate].load(weight + gate * H * length, first + i * stride, length, 1, once);
      }
    }
    GRU_UNROLL
    for (int i = 0; i < kWindows; ++i) {
      const scalar_t* values_of_row = operand;
      GRU_UNROLL
      for (int row = 0; row < kRows; ++row, values_of_row += row < rows ? product.row_stride : 0) {
        Values x;
        x.load(values_of_row, first + i * stride, length, kAligned ? 1 : product.value_stride, cached);
        GRU_UNROLL
        for (int j = 0; j < Values::kCount; ++j) {
          GRU_UNROLL
          for (int gate = 0; gate < 3; ++gate) {
            sums[row][gate] += device::to_acc(weights[i][gate].values[j]) * device::to_acc(x.values[j]);
          }
        }
      }
    }
  }
}

// Adds up the lanes' sums. Those of row r end in sums[0] of lanes r * 32 / kRows on: while a lane has several rows, it
// gives half of them away, and receives as much of the others.
template <int kRows, typename acc_t>
GRU_DEVICE void add_lanes(acc_t (&sums)[kRows][3]) {
  const int lane = device::thread_index() % device::kWarpSize;
  GRU_UNROLL
  for (int step = 0; step < 5; ++step) {
    const int mask = device::kWarpSize >> (step + 1), half = kRows >> (step + 1);
    const bool upper = (lane & mask) != 0;
    GRU_UNROLL
    for (int gate = 0; gate < 3; ++gate) {
      if (half == 0) sums[0][gate] += device::shuffle_xor(sums[0][gate], mask);
      GRU_UNROLL
      for (int row = 0; row < half; ++row) {
        const acc_t low = sums[row][gate], high = sums[row + half][gate];
        sums[row][gate] = (upper ? high : low) + device::shuffle_xor(upper ? low : high, mask);
      }
    }
  }
}

// Grid: a block for each tile of kRows rows of each unit of each direction, tiles first. Block: the warps of W x, then
// those of R h. Shared memory: (warps, kRows, 3) sums, and 6 + kRows other values.
template <typename scalar_t, int kRows>
GRU_KERNEL(2 * kOneStepWarps * device::kWarpSize, 2)
gru_one_step_fwd_kernel(const GruOneStepFwdParams<scalar_t> p) {
  using device::from_acc;
  using device::load_global;
  using device::load_shared;
  using device::store_global;
  using device::store_shared;
  using device::to_acc;
  using acc_t = device::acc_type<scalar_t>;
  const int tiles = static_cast<int>((p.B + kRows - 1) / kRows);
  const int unit_of_all = device::block_index() / tiles;
  const int d = unit_of_all >= p.H;
  const int64_t unit = unit_of_all - d * p.H;
  const int64_t first_row = static_cast<int64_t>(device::block_index() - unit_of_all * tiles) * kRows;
  const int rows = static_cast<int>(p.B - first_row < kRows ? p.B - first_row : kRows);
  const int thread = device::thread_index(), warp = thread / device::kWarpSize, lane = thread % device::kWarpSize;

  // What the cell takes besides the products is under way at the same time, a value a thread: the biases, then h.
  // Nothing is done with it before the sums, as that would wait for it.
  scalar_t other{};
  if (thread < 6) {
    const scalar_t* const bias = thread < 3 ? (d ? p.bias_ih[1] : p.bias_ih[0]) : (d ? p.bias_hh[1] : p.bias_hh[0]);
    if (bias != nullptr) other = load_global(bias + thread % 3 * p.H + unit);
  } else if (thread < 6 + rows && p.of_h.operand != nullptr) {
    other = load_global(p.of_h.operand + d * p.of_h.direction_stride + (first_row + thread - 6) * p.of_h.row_stride +
                        unit * p.of_h.value_stride);
  }

  acc_t sums[kRows][3] = {};
  const bool of_x = warp < p.of_x.warps;
  const GruOneStepProduct<scalar_t>& product = of_x ? p.of_x : p.of_h;
  const int warp_of_product = of_x ? warp : warp - p.of_x.warps;
  const scalar_t* const weight = (d ? product.weight[1] : product.weight[0]) + unit * product.length;
  const scalar_t* const operand = product.operand + d * product.direction_stride + first_row * product.row_stride;
  if (product.aligned) {
    add_products<true>(sums, product, weight, p.H, operand, rows, warp_of_product);
  } else {
    add_products<false>(sums, product, weight, p.H, operand, rows, warp_of_product);
  }
  add_lanes(sums);

  const int warps = p.of_x.warps + p.of_h.warps;
  acc_t* const of_warps = reinterpret_cast<acc_t*>(device::shared_memory());  // (warps, kRows, 3)
  acc_t* const others = of_warps + warps * kRows * 3;                         // (6 + kRows)
  constexpr int kLanesOfRow = device::kWarpSize / kRows;
  if (lane % kLanesOfRow == 0) {
    acc_t* const to = of_warps + (device::anew(thread) / device::kWarpSize * kRows + lane / kLanesOfRow) * 3;
    GRU_UNROLL
    for (int gate = 0; gate < 3; ++gate) {
      store_shared(to + gate, sums[0][gate]);
    }
  }
  if (thread < 6 + kRows) store_shared(others + thread, to_acc(other));
  device::block_barrier();
  if (thread >= rows) return;

  const auto sum_of = [&](int w, int gate) {
    return w < warps ? load_shared(of_warps + (w * kRows + thread) * 3 + gate) : acc_t(0);
  };
  acc_t a_r = 0, a_z = 0, a_n = 0, q = 0;
  GRU_UNROLL
  for (int w = 0; w < 2 * kOneStepWarps; ++w) {
    a_r += sum_of(w, 0);
    a_z += sum_of(w, 1);
    const acc_t third = sum_of(w, 2);
    a_n += w < p.of_x.warps ? third : acc_t(0);
    q += w < p.of_x.warps ? acc_t(0) : third;
  }
  a_r += load_shared(others) + load_shared(others + 3);
  a_z += load_shared(others + 1) + load_shared(others + 4);
  a_n += load_shared(others + 2);
  q += load_shared(others + 5);
  Gates<acc_t> gates;
  const acc_t next = cell_fwd<device::AccurateMath<acc_t>>(a_r, a_z, a_n, q, load_shared(others + 6 + thread), gates);
  const int64_t row = first_row + thread;
  store_global(p.h_n + (d * p.B + row) * p.H + unit, from_acc<scalar_t>(next));
  if (p.y != nullptr) store_global(p.y + (row * p.D + d) * p.H + unit, from_acc<scalar_t>(next));
  if (p.gates != nullptr) {
    scalar_t* const saved = p.gates + (d * p.B + row) * 4 * p.H + unit;
    store_global(saved, from_acc<scalar_t>(gates.r));
    store_global(saved + p.H, from_acc<scalar_t>(gates.z));
    store_global(saved + 2 * p.H, from_acc<scalar_t>(gates.n));
    store_global(saved + 3 * p.H, from_acc<scalar_t>(gates.q));
  }
}

struct OneStepShape {
  int blocks, threads, shared_bytes;
};

// The launch of a call: body(kernel, parameters, shape).
template <typename scalar_t, typename Body>
auto with_one_step_launch(GruOneStepFwdParams<scalar_t> p, const Body& body) {
  for (auto* const product : {&p.of_x, &p.of_h}) {
    constexpr int kBytes = kOneStepWindows * kOneStepWindowBytes;
    const int64_t warps = (product->length * static_cast<int64_t>(sizeof(scalar_t)) + kBytes - 1) / kBytes;
    product->warps = static_cast<int>(warps < kOneStepWarps ? warps : kOneStepWarps);
  }
  if (p.of_h.operand == nullptr) p.of_h.warps = 0;
  if (p.of_x.warps == 0) p.of_x.warps = 1;  // I = 0: someone has to compute the cell
  const auto by_tile = [&](auto kernel, int rows) {
    const int warps = p.of_x.warps + p.of_h.warps, shared_values = warps * rows * 3 + 6 + rows;
    return body(kernel, p,
                OneStepShape{static_cast<int>(p.D * p.H * ((p.B + rows - 1) / rows)), warps * device::kWarpSize,
                             shared_values * static_cast<int>(sizeof(device::acc_type<scalar_t>))});
  };
  if (p.B == 1) return by_tile(gru_one_step_fwd_kernel<scalar_t, 1>, 1);
  if (p.B == 2) return by_tile(gru_one_step_fwd_kernel<scalar_t, 2>, 2);
  if (p.B <= 4) return by_tile(gru_one_step_fwd_kernel<scalar_t, 4>, 4);
  return by_tile(gru_one_step_fwd_kernel<scalar_t, kOneStepRows>, kOneStepRows);
}

}  // namespace gru_ext
