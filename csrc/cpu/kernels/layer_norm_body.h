// The recurrence with layer-normalised gates over a chunk of steps, for one thread of several.
//
// A row's mean and variance need the products of all units, so threads wait for each other twice a step: before the
// product, which needs the state of all units, and before the gates, which need the moments. Each thread leaves those
// of its own units, two numbers a row; every thread adds up all of them in the same order. Backward the same, with the
// sums of `norm_bwd`. W x is normalised for the whole chunk at once.
#pragma once

#include <cmath>

#include "cell/cell.h"
#include "cpu/kernels/gradients_body.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/lanes_body.h"
#include "cpu/kernels/panel_product_body.h"
#include "cpu/step_barrier.h"
#include "cpu/kernels/steps_body.h"

namespace gru_ext {
namespace {

// Rows whose statistics a thread adds up at once; the gates of these rows follow.
constexpr int64_t kNormRows = 32;
static_assert(kNormRows % kRowBlock == 0);

// Where what is saved of a row begins, in units of H: `Variant::gates_shape` in op/layer.h.
constexpr int kSavedInput = 3, kSavedHidden = 6, kSavedInverse = 9;
inline int64_t saved_norm_values(int64_t H) { return 9 * H + 16; }

// The gates r, z, n of a unit are normalised with those of the same number.
GRU_INLINE int norm_of(int norms, int gate) { return gate == 2 ? norms - 1 : 0; }
// Gates that are normalised together.
GRU_INLINE int gates_of_norm(int norms, int norm) { return norms == 1 ? 3 : norm == 0 ? 2 : 1; }

template <typename acc_t, int half, size_t... i>
GRU_INLINE VectorOf<acc_t> rotate(VectorOf<acc_t> v, std::index_sequence<i...>) {
  return __builtin_shuffle(v, typename VectorMath<acc_t>::BitVector{(i + half) % sizeof...(i)...});
}

// The sum of the lanes.
template <typename acc_t, int half = VectorMath<acc_t>::lanes / 2>
GRU_INLINE acc_t lane_sum(VectorOf<acc_t> v) {
  if constexpr (half == 0) {
    return v[0];
  } else {
    return lane_sum<acc_t, half / 2>(v + rotate<acc_t, half>(v, std::make_index_sequence<VectorMath<acc_t>::lanes>()));
  }
}

// The units of a thread, [first, last).
struct UnitRange {
  int64_t first, last;
  UnitRange(int64_t H, int64_t items, int64_t units_of_item, int thread, int threads)
      : first(std::min(H, share(items, thread, threads) * units_of_item)),
        last(std::min(H, share(items, thread + 1, threads) * units_of_item)) {}
};

// Leaves the moments of the thread's groups [begin, end) of `rows` rows, from `first_row` on, of values
// (groups, value_rows, 3, lanes).
template <typename scalar_t, typename operand_t>
void leave_moments(const FwdChunk<scalar_t, operand_t>& p, const acc_type<scalar_t>* values, int64_t value_rows,
                   int64_t first_row, int64_t rows, int64_t begin, int64_t end, int thread) {
  using acc_t = acc_type<scalar_t>;
  using Vector = VectorOf<acc_t>;
  constexpr int64_t lanes = VectorMath<acc_t>::lanes;
  const int64_t units = std::min(p.H, end * lanes) - std::min(p.H, begin * lanes);
  if (units == 0) return;
  const int64_t whole = begin + units / lanes;  // groups up to here have no lane beyond H
  alignas(64) acc_t ones[lanes];
  for (int64_t i = 0; i < lanes; ++i) ones[i] = i < units % lanes ? 1 : 0;
  const Vector valid = load<acc_t>(ones, lanes);
  const int norm_of_n = norm_of(p.norms, 2);
  for (int64_t row = first_row; row < first_row + rows; ++row) {
    const auto value = [&](int64_t group, int gate) GRU_INLINED {
      return load<acc_t>(values + ((group * value_rows + row) * 3 + gate) * lanes, lanes);
    };
    Vector of_rz{}, of_n{};  // lanes beyond H hold zeros
    for (int64_t group = begin; group < end; ++group) {
      of_rz += value(group, 0) + value(group, 1);
      of_n += value(group, 2);
    }
    if (norm_of_n == 0) of_rz += of_n;
    const acc_t mean_rz = lane_sum<acc_t>(of_rz) / (units * gates_of_norm(p.norms, 0));
    const acc_t mean_n = norm_of_n == 0 ? mean_rz : lane_sum<acc_t>(of_n) / units;
    of_rz = of_n = Vector{};
    const auto add_squares = [&](int64_t group, Vector lanes_of_units) GRU_INLINED {
      const Vector r = (value(group, 0) - mean_rz) * lanes_of_units;
      const Vector z = (value(group, 1) - mean_rz) * lanes_of_units;
      const Vector n = (value(group, 2) - mean_n) * lanes_of_units;
      of_rz += r * r + z * z;
      of_n += n * n;
    };
    for (int64_t group = begin; group < whole; ++group) add_squares(group, Vector{} + 1);
    if (whole < end) add_squares(whole, valid);
    if (norm_of_n == 0) of_rz += of_n;
    acc_t* moments = p.moments + (thread * p.moment_rows + row) * 4;
    moments[0] = mean_rz;
    moments[1] = lane_sum<acc_t>(of_rz);
    if (norm_of_n == 0) continue;
    moments[2] = mean_n;
    moments[3] = lane_sum<acc_t>(of_n);
  }
}

template <typename acc_t>
struct RowNorm {
  acc_t mean, inverse_std;
};

// Of `rows` rows from `first` on: the mean and 1 / sqrt(variance + eps) of each normalisation, from what all threads
// left. The sum of (x - mean)^2 over all units is the sum, over threads, of what each has about its own mean and of
// units * (own mean - mean)^2.
template <typename scalar_t, typename operand_t>
void add_up_moments(const FwdChunk<scalar_t, operand_t>& p, int64_t first, int64_t rows, int threads,
                    RowNorm<acc_type<scalar_t>> (*norms)[2]) {
  using acc_t = acc_type<scalar_t>;
  constexpr int64_t lanes = VectorMath<acc_t>::lanes;
  const int64_t groups = (p.H + lanes - 1) / lanes;
  const acc_t inverse_H = acc_t(1) / p.H;
  for (int norm = 0; norm < p.norms; ++norm) {
    for (int64_t row = 0; row < rows; ++row) norms[row][norm] = {0, 0};
    // Of each thread's units among all of them.
    const auto for_each_part = [&](const auto& body) GRU_INLINED {
      for (int thread = 0; thread < threads; ++thread) {
        const UnitRange units(p.H, groups, lanes, thread, threads);
        if (units.first == units.last) continue;
        body((units.last - units.first) * inverse_H, p.moments + (thread * p.moment_rows + first) * 4 + 2 * norm);
      }
    };
    for_each_part([&](acc_t part, const acc_t* moments) GRU_INLINED {
      for (int64_t row = 0; row < rows; ++row) norms[row][norm].mean += part * moments[4 * row];
    });
    const acc_t inverse_count = inverse_H / gates_of_norm(p.norms, norm);
    for_each_part([&](acc_t part, const acc_t* moments) GRU_INLINED {
      for (int64_t row = 0; row < rows; ++row) {
        const acc_t difference = moments[4 * row] - norms[row][norm].mean;
        norms[row][norm].inverse_std += moments[4 * row + 1] * inverse_count + part * difference * difference;
      }
    });
    for (int64_t row = 0; row < rows; ++row) {
      norms[row][norm].inverse_std = 1 / std::sqrt(norms[row][norm].inverse_std + static_cast<acc_t>(kNormEpsilon));
    }
  }
}

// The three gates of a unit, normalised.
template <typename acc_t>
GRU_INLINE void normalize(const acc_t* values, int norms, const RowNorm<acc_t> (&of_row)[2],
                          VectorOf<acc_t> (&hat)[3]) {
  constexpr int lanes = VectorMath<acc_t>::lanes;
  for (int gate = 0; gate < 3; ++gate) {
    const RowNorm<acc_t>& norm = of_row[norm_of(norms, gate)];
    hat[gate] = (load<acc_t>(values + gate * lanes, lanes) - norm.mean) * norm.inverse_std;
  }
}

// Stores three gates' values of `count` units to (3, H).
template <typename acc_t, typename T>
GRU_INLINE void store_gates(T* target, int64_t H, const VectorOf<acc_t> (&gates)[3], int64_t count) {
  for (int gate = 0; gate < 3; ++gate) store<acc_t>(target + gate * H, gates[gate], count);
}

// `place`: 0 of W x, which comes first, or 2 of R h.
template <typename scalar_t, typename acc_t>
void save_inverse(scalar_t* saved, int64_t H, int place, int norms, const RowNorm<acc_t> (&of_row)[2]) {
  scalar_t* inverse = saved + kSavedInverse * H;
  if (place == 0) std::fill_n(inverse, saved_norm_values(H) - kSavedInverse * H, scalar_t(0));
  for (int norm = 0; norm < norms; ++norm) {
    inverse[place + norm] = static_cast<scalar_t>(of_row[norm].inverse_std);
  }
}

// W x of the rows [first_of_run, end_of_run) of the chunk, for the groups [begin, end): normalised, with gains and
// biases, in place.
template <typename scalar_t, typename operand_t>
void normalize_input(const FwdChunk<scalar_t, operand_t>& p, int64_t first_of_run, int64_t end_of_run, int64_t begin,
                     int64_t end, int thread, int threads) {
  using acc_t = acc_type<scalar_t>;
  using Vector = VectorOf<acc_t>;
  constexpr int64_t lanes = VectorMath<acc_t>::lanes;
  const int64_t first_row = p.steps[0].packed_row - p.steps[0].row;  // of the chunk within all steps
  RowNorm<acc_t> norms[kNormRows][2];
  for (int64_t first = first_of_run; first < end_of_run; first += kNormRows) {
    const int64_t rows = std::min(kNormRows, end_of_run - first);
    add_up_moments(p, first, rows, threads, norms);
    for (int64_t group = begin; group < end; ++group) {
      const int64_t unit = group * lanes;
      const int64_t count = std::min(lanes, p.H - unit);
      for (int64_t row = 0; row < rows; ++row) {
        acc_t* values = p.input_gates + (group * p.rows + first + row) * 3 * lanes;
        Vector hat[3];
        normalize(values, p.norms, norms[row], hat);
        for (int gate = 0; gate < 3; ++gate) {
          const int64_t place = gate * p.unit_stride + unit;
          store<acc_t>(values + gate * lanes,
                       load<acc_t>(p.gains + place, lanes) * hat[gate] + load<acc_t>(p.input_bias + place, lanes),
                       lanes);
        }
        if (!p.saves_gates) continue;
        scalar_t* saved = p.gates + (first_row + first + row) * saved_norm_values(p.H);
        store_gates<acc_t>(saved + kSavedInput * p.H + unit, p.H, hat, count);
      }
    }
    for (int64_t row = 0; row < rows && thread == 0 && p.saves_gates; ++row) {
      save_inverse(p.gates + (first_row + first + row) * saved_norm_values(p.H), p.H, 0, p.norms, norms[row]);
    }
  }
}

// The gates of a row of a step for a group of units.
template <bool masked, typename scalar_t, typename operand_t>
GRU_INLINE void normalized_gates_fwd(const FwdChunk<scalar_t, operand_t>& p, const Step& step, int64_t row,
                                     int64_t group, const RowNorm<acc_type<scalar_t>> (&norms)[2]) {
  using acc_t = acc_type<scalar_t>;
  using Math = CellMath<scalar_t>;
  using Vector = typename Math::Vector;
  constexpr int64_t lanes = Math::lanes;
  const int64_t unit = group * lanes;
  const int64_t count = std::min(lanes, p.H - unit);
  const acc_t* input = p.input_gates + (group * p.rows + step.row + row) * 3 * lanes;
  const acc_t* gains = p.gains + 3 * p.unit_stride + unit;
  Vector hat[3];
  normalize(p.hidden_gates + (group * p.B + row) * 3 * lanes, p.norms, norms, hat);
  const Vector a_r = load<acc_t>(input, lanes) + load<acc_t>(gains, lanes) * hat[0];
  const Vector a_z = load<acc_t>(input + lanes, lanes) + load<acc_t>(gains + p.unit_stride, lanes) * hat[1];
  const Vector a_n = load<acc_t>(input + 2 * lanes, lanes);
  const Vector q = load<acc_t>(gains + 2 * p.unit_stride, lanes) * hat[2] + load<acc_t>(p.bias_hn + unit, lanes);
  Gates<Vector> gates;
  advance<masked>(p, step, row, unit, count, p.h[0], [&](Vector h, auto... masks) GRU_INLINED {
    return cell_fwd<Math>(a_r, a_z, a_n, q, h, gates, masks...);
  });
  if (p.saves_gates) {
    scalar_t* saved = p.gates + (step.packed_row + row) * saved_norm_values(p.H) + unit;
    store_gates<acc_t>(saved, p.H, {gates.r, gates.z, gates.n}, count);
    store_gates<acc_t>(saved + kSavedHidden * p.H, p.H, hat, count);
  }
}

template <bool masked, typename scalar_t, typename operand_t>
void layer_norm_fwd(const FwdChunk<scalar_t, operand_t>& p, int thread, int threads, StepBarrier& barrier) {
  using acc_t = acc_type<scalar_t>;
  constexpr int64_t lanes = VectorMath<acc_t>::lanes;
  const int64_t groups = (p.H + lanes - 1) / lanes;
  const int64_t begin = share(groups, thread, threads);
  const int64_t end = share(groups, thread + 1, threads);
  multiply_input(p, begin, end);
  for_each_run(p, [&](int64_t first, int64_t rows) {
    leave_moments(p, p.input_gates, p.rows, first, rows, begin, end, thread);
  });
  barrier.finished(thread, 2 * p.first_step + 1);
  barrier.wait(thread, threads, 2 * p.first_step + 1);
  for_each_run(
      p, [&](int64_t first, int64_t rows) { normalize_input(p, first, first + rows, begin, end, thread, threads); });
  barrier.finished(thread, 2 * p.first_step + 2);
  RowNorm<acc_t> norms[kNormRows][2];
  for (int64_t i = 0; i < p.step_count; ++i) {
    const Step& step = p.steps[i];
    const int64_t done = p.first_step + 1 + i;
    const auto nth_group = [=](int64_t j) { return done % 2 == 0 ? begin + j : end - 1 - j; };
    barrier.wait(thread, threads, 2 * done);
    for (int64_t j = 0; j < end - begin; ++j) {
      const int64_t group = nth_group(j);
      multiply_units<3, Start::zero>(p, kThreeGates, p.weight_hh, p.H, group, step.rows, p.h[0], p.h_stride,
                                     p.hidden_gates + group * p.B * 3 * lanes);
    }
    leave_moments(p, p.hidden_gates, p.B, 0, step.rows, begin, end, thread);
    barrier.finished(thread, 2 * done + 1);
    barrier.wait(thread, threads, 2 * done + 1);
    for (int64_t first = 0; first < step.rows; first += kNormRows) {
      const int64_t rows = std::min(kNormRows, step.rows - first);
      add_up_moments(p, first, rows, threads, norms);
      for (int64_t j = 0; j < end - begin; ++j) {
        const int64_t group = nth_group(end - begin - 1 - j);
        for (int64_t row = 0; row < rows; ++row) {
          normalized_gates_fwd<masked>(p, step, first + row, group, norms[row]);
        }
      }
      for (int64_t row = 0; row < rows && thread == 0 && p.saves_gates; ++row) {
        save_inverse(p.gates + (step.packed_row + first + row) * saved_norm_values(p.H), p.H, 2, p.norms, norms[row]);
      }
    }
    barrier.finished(thread, 2 * done + 2);
  }
}

// The derivative of the cell for a row of a step and the thread's units, and the sums that `norm_bwd` needs.
template <bool masked, typename scalar_t, typename operand_t>
GRU_INLINE void normalized_gates_bwd(const BwdChunk<scalar_t, operand_t>& p, const Step& step, int64_t row,
                                     UnitRange units, acc_type<scalar_t>* moments) {
  using acc_t = acc_type<scalar_t>;
  using Vector = VectorOf<acc_t>;
  constexpr int64_t lanes = VectorMath<acc_t>::lanes;
  const scalar_t* h_prev = p.h_prev[step.row + row];
  Vector sums[2][4] = {};  // of each normalisation: d and d * hat of W x, then of R h
  const int norm_of_n = norm_of(p.norms, 2);
  for (int64_t unit = units.first; unit < units.last; unit += lanes) {
    const int64_t count = std::min(lanes, units.last - unit);
    const scalar_t* saved = p.gates + (step.row + row) * saved_norm_values(p.H) + unit;
    const auto hat = [&](int place, int gate) GRU_INLINED { return load<acc_t>(saved + (place + gate) * p.H, count); };
    const auto gain = [&](int place) GRU_INLINED { return load<acc_t>(p.gains + place * p.dh_stride + unit, lanes); };
    const Vector hidden_n = hat(kSavedHidden, 2);
    const Gates<Vector> gates = {load<acc_t>(saved, count), load<acc_t>(saved + p.H, count),
                                 load<acc_t>(saved + 2 * p.H, count),
                                 gain(5) * hidden_n + load<acc_t>(p.bias_hn + unit, lanes)};
    const Vector h = h_prev == nullptr ? Vector{} : load<acc_t>(h_prev + unit, count);
    acc_t* dh = p.dh + row * p.dh_stride + unit;
    Vector d = load<acc_t>(dh, count);  // beyond H there may be NaN, of an infinity times a weight of zero
    if (p.dy != nullptr) d += load<acc_t>(p.dy + step.offset + row * p.dy_stride + unit, count);
    GateGrads<Vector> grads;
    Vector past_product;
    if constexpr (masked) {
      past_product = cell_bwd(gates, h, d, grads, cell_masks(p.masks, (step.packed_row + row) * p.H + unit, count));
    } else {
      past_product = cell_bwd(gates, h, d, grads);
    }
    store<acc_t>(dh, past_product, lanes);
    const Vector of_gates[4] = {grads.r, grads.z, grads.n, grads.q};
    for (int gate = 0; gate < 4; ++gate) {
      store<acc_t>(p.da + (row * 4 + gate) * p.dh_stride + unit, of_gates[gate], lanes);
    }
    const auto add = [&](Vector(&sum)[4], int first, Vector value, Vector normalized) GRU_INLINED {
      sum[first] += value;
      sum[first + 1] += value * normalized;
    };
    add(sums[0], 0, gain(0) * grads.r, hat(kSavedInput, 0));
    add(sums[0], 0, gain(1) * grads.z, hat(kSavedInput, 1));
    add(sums[1], 0, gain(2) * grads.n, hat(kSavedInput, 2));
    add(sums[0], 2, gain(3) * grads.r, hat(kSavedHidden, 0));
    add(sums[0], 2, gain(4) * grads.z, hat(kSavedHidden, 1));
    add(sums[1], 2, gain(5) * grads.q, hidden_n);
  }
  for (int i = 0; i < 4; ++i) {
    if (norm_of_n == 0) {
      moments[i] = lane_sum<acc_t>(sums[0][i] + sums[1][i]);
    } else {
      moments[i] = lane_sum<acc_t>(sums[0][i]);
      moments[4 + i] = lane_sum<acc_t>(sums[1][i]);
    }
  }
}

// What `norm_bwd` needs of a row, for each normalisation of W x and of R h.
template <typename acc_t>
struct RowNormGrads {
  acc_t mean_d, mean_d_hat, inverse_std;
};

// The gradients of W x and R h of a step's rows, for the thread's units, and the sums over rows for those of the biases
// and gains.
template <typename scalar_t, typename operand_t>
void norms_bwd(const BwdChunk<scalar_t, operand_t>& p, const Step& step, UnitRange units, int threads) {
  using acc_t = acc_type<scalar_t>;
  using Vector = VectorOf<acc_t>;
  constexpr int64_t lanes = VectorMath<acc_t>::lanes;
  RowNormGrads<acc_t> norms[kNormRows][2][2];  // of each row, normalisation, and W x or R h
  for (int64_t first = 0; first < step.rows; first += kNormRows) {
    const int64_t rows = std::min(kNormRows, step.rows - first);
    const auto saved_row = [&](int64_t row) { return p.gates + (step.row + first + row) * saved_norm_values(p.H); };
    for (int64_t row = 0; row < rows; ++row) {
      for (int norm = 0; norm < p.norms; ++norm) {
        const acc_t inverse_count = acc_t(1) / (p.H * gates_of_norm(p.norms, norm));
        for (int side = 0; side < 2; ++side) {
          RowNormGrads<acc_t> total = {0, 0, static_cast<acc_t>(saved_row(row)[kSavedInverse * p.H + 2 * side + norm])};
          for (int thread = 0; thread < threads; ++thread) {
            const acc_t* moments = p.moments + (thread * p.moment_rows + first + row) * 8 + 4 * norm + 2 * side;
            total.mean_d += moments[0];
            total.mean_d_hat += moments[1];
          }
          total.mean_d *= inverse_count;
          total.mean_d_hat *= inverse_count;
          norms[row][norm][side] = total;
        }
      }
    }
    for (int64_t unit = units.first; unit < units.last; unit += lanes) {
      const int64_t count = std::min(lanes, units.last - unit);
      Vector gains[6];
      for (int i = 0; i < 6; ++i) gains[i] = load<acc_t>(p.gains + i * p.dh_stride + unit, lanes);
      Vector of_biases[4] = {}, of_gains[6] = {};
      for (int64_t row = 0; row < rows; ++row) {
        const scalar_t* saved = saved_row(row) + unit;
        operand_t* dgates = p.dgates + (step.row + first + row) * p.dgates_stride + unit;
        Vector da[4];  // r, z, n, q
        for (int gate = 0; gate < 4; ++gate) {
          da[gate] = load<acc_t>(p.da + ((first + row) * 4 + gate) * p.dh_stride + unit, lanes);
          of_biases[gate] += da[gate];
        }
        const auto put = [&](int side, int gate, Vector d, int column) GRU_INLINED {
          const Vector hat = load<acc_t>(saved + (kSavedInput + 3 * side + gate) * p.H, count);
          of_gains[3 * side + gate] += d * hat;
          const RowNormGrads<acc_t>& norm = norms[row][norm_of(p.norms, gate)][side];
          const Vector grad = norm_bwd(gains[3 * side + gate] * d, hat, norm.mean_d, norm.mean_d_hat, norm.inverse_std);
          store_operand<acc_t>(dgates + column * p.H, p.dgates_stride, grad, count);
        };
        put(0, 2, da[2], 0);
        put(0, 0, da[0], 1);
        put(0, 1, da[1], 2);
        put(1, 0, da[0], 3);
        put(1, 1, da[1], 4);
        put(1, 2, da[3], 5);
        if (!ends_block(p, row, rows)) continue;
        constexpr int place_of_bias[4] = {1, 2, 0, 3};  // in the order n, r, z, q
        for (int gate = 0; gate < 4; ++gate) {
          add_bias_sum(p, first + row, place_of_bias[gate], unit, of_biases[gate]);
          of_biases[gate] = Vector{};
        }
        for (int i = 0; i < 6; ++i) {
          add_bias_sum(p, first + row, 4 + i, unit, of_gains[i]);
          of_gains[i] = Vector{};
        }
      }
    }
  }
}

template <bool masked, typename scalar_t, typename operand_t>
void layer_norm_bwd(const BwdChunk<scalar_t, operand_t>& p, int thread, int threads, StepBarrier& barrier) {
  using acc_t = acc_type<scalar_t>;
  constexpr int columns = kPanelColumns<acc_t>;
  const int64_t panels = (p.H + columns - 1) / columns;
  const int64_t begin = share(panels, thread, threads);
  const int64_t end = share(panels, thread + 1, threads);
  const UnitRange units(p.H, panels, columns, thread, threads);
  const int64_t panel_size = words_of<acc_t, operand_t>(3 * p.H) * columns;
  const acc_t* weight_hh = static_cast<const acc_t*>(p.weight_hh);
  // Round i: the product of step i - 1, which needs all threads' gradients of it, and the cell of step i; then its
  // normalisations, which need all threads' sums.
  for (int64_t i = 0; i <= p.step_count; ++i) {
    const int64_t done = p.first_step + i;
    if (i > 0 && (i < p.step_count || p.last_product)) {
      barrier.wait(thread, threads, 2 * done);
      const Step& step = p.steps[i - 1];
      if (!p.packed) add_unpacked_product<masked>(p, step, units.first, units.last, 3 * p.H);
      for (int64_t j = 0; p.packed && j < end - begin; ++j) {
        const int64_t panel = done % 2 == 0 ? begin + j : end - 1 - j;
        for_each_tile<kRowsAtOnce<operand_t, kPanelVectors>>(step.rows, [&](int64_t row, int64_t rows) {
          add_recurrent_product<masked>(p, step, row, rows, panel * columns, 3 * p.H, weight_hh + panel * panel_size);
        });
      }
    }
    if (i < p.step_count) {
      const Step& step = p.steps[i];
      for (int64_t row = 0; row < step.rows; ++row) {
        normalized_gates_bwd<masked>(p, step, row, units, p.moments + (thread * p.moment_rows + row) * 8);
      }
      barrier.finished(thread, 2 * done + 1);
      barrier.wait(thread, threads, 2 * done + 1);
      norms_bwd(p, step, units, threads);
    }
    barrier.finished(thread, 2 * done + 2);
    if (i == p.step_count || i % kLongestBiasSum == kLongestBiasSum - 1) {
      flush_bias_sums(p, begin * columns, end * columns);
    }
  }
}

}  // namespace
}  // namespace gru_ext
