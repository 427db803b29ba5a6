// The pointwise part of the recurrence, for the persistent kernels: a thread's pairs of hidden units. Backwards:
// bwd_pair.cuh.
#pragma once

#include "cuda/persistent/pairs.cuh"
#include "cuda/persistent/rows.cuh"

namespace gru_ext {
namespace device {

// Two neighbouring units of a row.
template <typename T>
struct FwdPair {
  int row;          // of the tile
  int unit, count;  // the first unit, within the block, and how many of the two there are
  int steps;        // of the row's sequence; 0 beyond B, and for a thread that has no row
  float h[2];
  LoadedPair<T> a_x[3];  // of the step to come

  // row, unit: see above. `works`: whether the thread has such a row.
  GRU_DEVICE void begin(const PersistentFwdParams<T>& p, const BlockWork& work, int row_of_tile, int unit_of_block,
                        bool works) {
    row = row_of_tile;
    unit = unit_of_block;
    count = clamp(p.H - work.unit0 - unit, 0, 2);
    const int row_of_batch = work.row0 + row;
    const bool exists = works && row_of_batch < p.B;
    steps = !exists ? 0 : p.lengths ? load_global(p.lengths + row_of_batch) : p.T;
    const LoadedPair<T> h0 = load_pair(at_offset(p.h0, of_state(p, work)), p.h0 && exists ? count : 0, p.paired);
    h[0] = to_acc(h0.first());
    h[1] = to_acc(h0.second());
  }

  // How many of the two units have step t.
  GRU_DEVICE int existing(int t) const { return t < steps ? count : 0; }

  GRU_DEVICE void load_step(const PersistentFwdParams<T>& p, const BlockWork& work, const Step& step) {
    const StepRows<const T>& rows = p.a_x[work.direction];
    load_step(rows_of_step(p, rows, work, step) + place_in(rows.row_stride, work), step.t, p.H, p.paired);
  }

  // Loads step t from its place, that of r.
  GRU_DEVICE void load_step(const T* from, int t, int H, bool paired) {
    const int exist = existing(t);
    load_pairs(a_x, {from, from + H, from + 2 * H}, {exist, exist, exist}, paired);
  }

  // h becomes the state after step t, which was loaded, of those units that have it. `a_h`: R h + b_hh of r, z and n.
  // `masks_of`: of a unit of the two, what regularises it. No branch, so that neither unit waits for the other.
  template <typename Math, typename MasksOf>
  GRU_DEVICE void advance(int t, const Pair<float> (&a_h)[3], Gates<float> (&gates)[2], const MasksOf& masks_of) {
    const float first = cell_fwd<Math>(to_acc(a_x[0].first()) + a_h[0].first, to_acc(a_x[1].first()) + a_h[1].first,
                                       to_acc(a_x[2].first()), a_h[2].first, h[0], gates[0], masks_of(0));
    const float second =
        cell_fwd<Math>(to_acc(a_x[0].second()) + a_h[0].second, to_acc(a_x[1].second()) + a_h[1].second,
                       to_acc(a_x[2].second()), a_h[2].second, h[1], gates[1], masks_of(1));
    const int exist = existing(t);
    if (exist > 0) h[0] = first;
    if (exist > 1) h[1] = second;
  }

  template <typename Math>
  GRU_DEVICE void advance(int t, const Pair<float> (&a_h)[3], Gates<float> (&gates)[2]) {
    advance<Math>(t, a_h, gates, [](int) { return NoMasks<float>(); });
  }

  // `y`, `gates_of_step`: the first elements of the step and direction; gates_of_step null where they are not saved.
  GRU_DEVICE void store_step(const PersistentFwdParams<T>& p, const BlockWork& work, int t, T* y, T* gates_of_step,
                             const Gates<float> (&gates)[2]) const {
    const int64_t row_of_batch = anew(work.row0 + row);  // or its products with strides would be kept from other places
    store_state(y + row_of_batch * p.y.row_stride + work.unit0 + unit, t, p.paired);
    if (gates_of_step == nullptr) return;
    store_gates(gates_of_step + row_of_batch * 4 * p.H + work.unit0 + unit, t, p.H, gates, p.paired);
  }

  // The same, to its places in y and, that of r, in gates.
  GRU_DEVICE void store_state(T* y, int t, bool paired) const {
    const int exist = existing(t);
    const int stored = GRU_FAULT(stores_beyond_h, exist, exist > 0 ? 2 : 0);
    store_pair(y, h[0], h[1], stored, paired);
  }
  GRU_DEVICE void store_gates(T* to, int t, int H, const Gates<float> (&gates)[2], bool paired) const {
    store_pairs<4, T>({to, to + H, to + 2 * H, to + 3 * H},
                      {LoadedPair<T>::rounded(gates[0].r, gates[1].r), LoadedPair<T>::rounded(gates[0].z, gates[1].z),
                       LoadedPair<T>::rounded(gates[0].n, gates[1].n), LoadedPair<T>::rounded(gates[0].q, gates[1].q)},
                      existing(t), paired);
  }

  GRU_DEVICE void store_last_state(const PersistentFwdParams<T>& p, const BlockWork& work) const {
    // The place is computed anew: kept since the first state was loaded, it would take registers all the time.
    const int64_t row_of_all = work.layer(p) * p.B + anew(work.row0 + row);
    store_pair(p.h_n + row_of_all * p.H + anew(work.unit0 + unit), h[0], h[1], existing(0), p.paired);
  }

  // Elements from the first of a step to the pair's.
  GRU_DEVICE int64_t place_in(int64_t row_stride, const BlockWork& work) const {
    return (work.row0 + row) * row_stride + work.unit0 + unit;
  }

  // Where in (E, D, B, H).
  GRU_DEVICE int64_t of_state(const PersistentFwdParams<T>& p, const BlockWork& work) const {
    return (work.layer(p) * p.B + (work.row0 + row)) * p.H + work.unit0 + unit;
  }
};

// Elements from a step to the next one here: of W x to the step that is loaded, of y and gates to that which is stored.
struct FwdDistance {
  int64_t a_x, y, gates;

  // `loaded`, `stored`: rows from the first of the step before to the first of that one.
  template <typename T>
  GRU_DEVICE static FwdDistance packed(const PersistentFwdParams<T>& p, int direction, int64_t loaded, int64_t stored) {
    return {loaded * p.a_x[direction].row_stride, stored * p.y.row_stride, stored * 4 * p.H};
  }
  template <typename T>
  GRU_DEVICE static FwdDistance unpacked(const PersistentFwdParams<T>& p, int direction) {
    const FwdDistance forwards = {p.a_x[direction].step_stride, p.y.step_stride, static_cast<int64_t>(p.B) * 4 * p.H};
    return direction == 0 ? forwards : FwdDistance{-forwards.a_x, -forwards.y, -forwards.gates};
  }
};

// Where a pair of a thread is in the tensors of a step.
template <typename T, bool kSaveGates>
struct FwdPlaces {
  const T* a_x;
  T* y;
  T* gates;  // not used where they are not saved

  GRU_DEVICE void begin(const PersistentFwdParams<T>& p, const BlockWork& work, const FwdPair<T>& pair,
                        const Step& step) {
    const StepRows<const T>& rows = p.a_x[work.direction];
    a_x = rows_of_step(p, rows, work, step) + pair.place_in(rows.row_stride, work);
    y = rows_of_step(p, p.y, work, step) + work.direction * p.H + pair.place_in(p.y.row_stride, work);
    if (kSaveGates) gates = p.gates + (work.layer(p) * p.N + step.row) * 4 * p.H + pair.place_in(4 * p.H, work);
  }

  // Before a step is loaded or stored: behind its stores the next places would wait until those have left.
  GRU_DEVICE void advance_loads(const FwdDistance& distance) { a_x += distance.a_x; }
  GRU_DEVICE void advance_stores(const FwdDistance& distance) {
    y += distance.y;
    if (kSaveGates) gates += distance.gates;
  }
  GRU_DEVICE void begin_stores(const FwdDistance& distance) {
    y -= distance.y;
    if (kSaveGates) gates -= distance.gates;
  }
};

}  // namespace device
}  // namespace gru_ext
