// The pointwise part of the recurrence backwards, for the persistent kernels: a thread's pairs of hidden units.
// Forward: fwd_pair.cuh.
#pragma once

#include "cuda/persistent/pairs.cuh"
#include "cuda/persistent/rows.cuh"

namespace gru_ext {
namespace device {

// The gate gradients of a pair as they are stored.
template <typename T>
struct RoundedGrads {
  LoadedPair<T> pairs[4];  // of n, r, z, q

  GRU_DEVICE static RoundedGrads of(const GateGrads<float> (&grads)[2]) {
    return {{LoadedPair<T>::rounded(grads[0].n, grads[1].n), LoadedPair<T>::rounded(grads[0].r, grads[1].r),
             LoadedPair<T>::rounded(grads[0].z, grads[1].z), LoadedPair<T>::rounded(grads[0].q, grads[1].q)}};
  }
};

// Two neighbouring units of a row.
template <typename T>
struct BwdPair {
  int row;          // of the tile; from the tile's rows on for a thread that has none
  int unit, count;  // the first unit, within the block, and how many of the two there are (0 beyond B)
  int steps;        // of the row's sequence
  float d[2];       // dL/dh without the parts that are yet to come
  float dbias[4][2];
  LoadedPair<T> loaded[6];  // of the step to come: r, z, n, q, dy, the state before

  // row, unit: see above. `rows`: of the tile.
  GRU_DEVICE void begin(const PersistentBwdParams<T>& p, const BlockWork& work, int rows, int row_of_tile,
                        int unit_of_block) {
    row = row_of_tile;
    unit = unit_of_block;
    const int row_of_batch = work.row0 + row;
    const bool exists = row < rows && row_of_batch < p.B;
    count = exists ? clamp(p.H - work.unit0 - unit, 0, 2) : 0;
    steps = !exists ? 0 : p.lengths ? load_global(p.lengths + row_of_batch) : p.T;
    const LoadedPair<T> dh_n = load_pair(at_offset(p.dh_n, of_state(p, work)), p.dh_n ? count : 0, p.paired);
    d[0] = to_acc(dh_n.first());
    d[1] = to_acc(dh_n.second());
    GRU_UNROLL
    for (int j = 0; j < 4; ++j) dbias[j][0] = dbias[j][1] = 0.0f;
  }

  // `row_before`: of the step before it in time, which the next one here will be.
  GRU_DEVICE void load_step(const PersistentBwdParams<T>& p, const BlockWork& work, const Step& step,
                            int64_t row_before) {
    const int t = step.t, direction = work.direction;
    const bool reverse = direction == 1;
    const int64_t row_of_batch = work.row0 + row;
    const T* const from = p.gates + (work.layer(p) * p.N + step.row + row_of_batch) * 4 * p.H + work.unit0 + unit;
    const T* const dy_of_row =
        p.dy.data ? rows_of_step(p, p.dy, work, step) + row_of_batch * p.dy.row_stride + direction * p.H : nullptr;
    const int t_prev = reverse ? t + 1 : t - 1;
    const bool has_prev = reverse ? t_prev < steps : t_prev >= 0;
    const T* const h_of_row =
        has_prev ? rows_of_step(p, p.y, work, {t_prev, row_before}) + row_of_batch * p.y.row_stride + direction * p.H
                 : at_offset(p.h0, (work.layer(p) * p.B + row_of_batch) * p.H);
    load_step(from, p.dy.data ? dy_of_row + work.unit0 + unit : nullptr,
              has_prev || p.h0 ? at_offset(h_of_row, work.unit0 + unit) : nullptr, t, p.H, p.paired);
  }

  // Where the state before step t is: at `h` but before the sequence's first step; null for zero.
  GRU_DEVICE const T* state_before(const PersistentBwdParams<T>& p, const BlockWork& work, int t, const T* h) const {
    const bool first = work.direction == 1 ? t + 1 >= steps : t == 0;
    return !first ? h : p.h0 ? p.h0 + of_state(p, work) : nullptr;
  }

  // Loads step t from its places: of the first gate, of dy and of the state before, null for zero.
  GRU_DEVICE void load_step(const T* gates, const T* dy, const T* h, int t, int H, bool paired) {
    const int existing = t < steps ? count : 0;
    load_pairs(loaded, {gates, gates + H, gates + 2 * H, gates + 3 * H, dy, h},
               {existing, existing, existing, existing, dy ? existing : 0, h ? existing : 0}, paired);
  }

  // Parts of dL/dh that have come.
  GRU_DEVICE void add(const Pair<float>& parts) {
    d[0] += parts.first;
    d[1] += parts.second;
  }

  // The gate gradients of the step that was loaded, zero where the sequence does not have it; d is then of the step
  // before. `masks_of`: of a unit of the two, what regularises it.
  template <typename MasksOf>
  GRU_DEVICE void differentiate(int t, GateGrads<float> (&grads)[2], const MasksOf& masks_of) {
    const int existing = t < steps ? count : 0;
    const Gates<float> gates[2] = {
        {to_acc(loaded[0].first()), to_acc(loaded[1].first()), to_acc(loaded[2].first()), to_acc(loaded[3].first())},
        {to_acc(loaded[0].second()), to_acc(loaded[1].second()), to_acc(loaded[2].second()),
         to_acc(loaded[3].second())}};
    const float dy[2] = {to_acc(loaded[4].first()), to_acc(loaded[4].second())};
    const float h[2] = {to_acc(loaded[5].first()), to_acc(loaded[5].second())};
    GRU_UNROLL
    for (int i = 0; i < 2; ++i) {
      GateGrads<float> found;
      const float before = cell_bwd(gates[i], h[i], d[i] + dy[i], found, masks_of(i));
      if (i < existing) d[i] = before;
      grads[i] = i < existing ? found : GateGrads<float>{};
      dbias[0][i] += grads[i].n;
      dbias[1][i] += grads[i].r;
      dbias[2][i] += grads[i].z;
      dbias[3][i] += grads[i].q;
    }
  }

  GRU_DEVICE void differentiate(int t, GateGrads<float> (&grads)[2]) {
    differentiate(t, grads, [](int) { return NoMasks<float>(); });
  }

  // `dgates`, `h_prev`: the first elements of the step; h_prev null if not needed. `h`: the state before, as it
  // entered the product.
  GRU_DEVICE void store_step(const PersistentBwdParams<T>& p, const BlockWork& work, int t, T* dgates, T* h_prev,
                             const RoundedGrads<T>& grads, const LoadedPair<T>& h) const {
    store_step(dgates + place_in(p.dgates[work.direction].row_stride, work),
               h_prev ? h_prev + place_in(p.h_prev[work.direction].row_stride, work) : nullptr, t, p.H, grads, h,
               p.paired);
  }

  // The same, to its places: the first is that of n.
  GRU_DEVICE void store_step(T* dgates, T* h_prev, int t, int H, const RoundedGrads<T>& grads, const LoadedPair<T>& h,
                             bool paired) const {
    const int existing = t < steps ? count : 0;
    store_pairs<4, T>({dgates, dgates + H, dgates + 2 * H, dgates + 3 * H}, grads.pairs, existing, paired);
    if (h_prev) store_pairs<1, T>({h_prev}, {h}, existing, paired);
  }

  // Elements from the first of a step to the pair's.
  GRU_DEVICE int64_t place_in(int64_t row_stride, const BlockWork& work) const {
    return (work.row0 + row) * row_stride + work.unit0 + unit;
  }

  // Where in (E, D, B, H).
  GRU_DEVICE int64_t of_state(const PersistentBwdParams<T>& p, const BlockWork& work) const {
    return (work.layer(p) * p.B + (work.row0 + row)) * p.H + work.unit0 + unit;
  }
};

// Elements from a step to the one before it in time; of h from that one to the next.
struct BwdDistance {
  int64_t gates, dy, h, dgates, h_prev;

  template <typename T>
  GRU_DEVICE static BwdDistance packed(const PersistentBwdParams<T>& p, int direction, int64_t rows,
                                       int64_t rows_of_h) {
    return {rows * 4 * p.H, rows * p.dy.row_stride, rows_of_h * p.y.row_stride, rows * p.dgates[direction].row_stride,
            rows * p.h_prev[direction].row_stride};
  }
  template <typename T>
  GRU_DEVICE static BwdDistance unpacked(const PersistentBwdParams<T>& p, int direction) {
    const int sign = direction == 1 ? 1 : -1;
    return {static_cast<int64_t>(sign) * p.B * 4 * p.H, sign * p.dy.step_stride, sign * p.y.step_stride,
            sign * p.dgates[direction].step_stride, sign * p.h_prev[direction].step_stride};
  }
};

// Where a pair of a thread is in the tensors of a step.
template <typename T>
struct BwdPlaces {
  const T* gates;
  const T* dy;  // null for zero
  const T* h;   // the state before; in the first step of the sequence it is elsewhere
  T* dgates;
  T* h_prev;  // null if not needed

  // `before`: the step before it in time.
  GRU_DEVICE void begin(const PersistentBwdParams<T>& p, const BlockWork& work, const BwdPair<T>& pair,
                        const Step& step, const Step& before) {
    const int d = work.direction;
    const auto place = [&](const auto& tensor, const Step& of, int first) {
      const int64_t beyond = first + pair.place_in(tensor.row_stride, work);
      return tensor.data ? rows_of_step(p, tensor, work, of) + beyond : nullptr;
    };
    gates = p.gates + (work.layer(p) * p.N + step.row) * 4 * p.H + pair.place_in(4 * p.H, work);
    dy = place(p.dy, step, d * p.H);
    h = place(p.y, before, d * p.H);
    dgates = place(p.dgates[d], step, 0);
    h_prev = place(p.h_prev[d], step, 0);
  }

  // To the step before it in time, for what is loaded of it and what is stored.
  GRU_DEVICE void advance_loads(const BwdDistance& distance) {
    gates += distance.gates;
    dy = at_offset(dy, distance.dy);
    h += distance.h;
  }
  GRU_DEVICE void advance_stores(const BwdDistance& distance) {
    dgates += distance.dgates;
    h_prev = at_offset(h_prev, distance.h_prev);
  }
};

// When the steps are done: dL/dh0, and the sums over the rows of the tile, which is this one of all. All threads of the
// block call it; `sums`, (4, kRows, kUnits), is shared memory that they are done with.
template <int kRows, int kUnits, int kThreads, typename T, int kPairs>
GRU_DEVICE void store_bwd_results(const PersistentBwdParams<T>& p, const BlockWork& work, int tile_index, bool failed,
                                  const BwdPair<T> (&own)[kPairs], float* sums) {
  GRU_UNROLL
  for (int e = 0; e < kPairs; ++e) {
    const auto& pair = own[e];
    store_pair(p.dh0 + pair.of_state(p, work), pair.d[0], pair.d[1], pair.count, p.paired);
  }
  if (failed) {
    if (thread_index() == 0) store_global(p.error, 1);
  } else if (p.dbias) {
    GRU_UNROLL
    for (int e = 0; e < kPairs; ++e) {
      const auto& pair = own[e];
      if (pair.row >= kRows) continue;
      GRU_UNROLL
      for (int j = 0; j < 4; ++j) {
        store_shared(reinterpret_cast<Pair<float>*>(sums + (j * kRows + pair.row) * kUnits + pair.unit),
                     Pair<float>{pair.dbias[j][0], pair.dbias[j][1]});
      }
    }
    block_barrier();
    for (int i = thread_index(); i < 4 * kUnits; i += kThreads) {
      const int j = i / kUnits, unit = i % kUnits;
      float sum = 0.0f;
      for (int row = 0; row < kRows; ++row) sum += load_shared(sums + (j * kRows + row) * kUnits + unit);
      if (work.unit0 + unit < p.H) {
        store_global(p.dbias + (static_cast<int64_t>(tile_index) * 4 + j) * p.H + work.unit0 + unit, sum);
      }
    }
  }
}

}  // namespace device
}  // namespace gru_ext
