// The pointwise part of the recurrence backwards, for the persistent kernels: a thread's pairs of hidden units.
// Forward: fwd_pair.cuh.
#pragma once

#include "cuda/persistent/pairs.cuh"
#include "cuda/persistent/rows.cuh"

namespace gru_ext {
namespace device {

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
    const int t = step.t, direction = work.direction, existing = t < steps ? count : 0;
    const bool reverse = direction == 1, packed = p.offsets != nullptr;
    const int64_t row_of_batch = work.row0 + row;
    const T* const from = p.gates + (direction * p.N + step.row + row_of_batch) * 4 * p.H + work.unit0 + unit;
    const T* const dy_of_row =
        p.dy.data ? rows_of_step(p.dy, packed, step) + row_of_batch * p.dy.row_stride + direction * p.H : nullptr;
    const int t_prev = reverse ? t + 1 : t - 1;
    const bool has_prev = reverse ? t_prev < steps : t_prev >= 0;
    const T* const h_of_row =
        has_prev ? rows_of_step(p.y, packed, {t_prev, row_before}) + row_of_batch * p.y.row_stride + direction * p.H
                 : at_offset(p.h0, (static_cast<int64_t>(direction) * p.B + row_of_batch) * p.H);
    load_pairs(loaded,
               {from, from + p.H, from + 2 * p.H, from + 3 * p.H, at_offset(dy_of_row, work.unit0 + unit),
                at_offset(h_of_row, work.unit0 + unit)},
               {existing, existing, existing, existing, p.dy.data ? existing : 0, has_prev || p.h0 ? existing : 0},
               p.paired);
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
    if (existing == 0) return;
    const Gates<float> gates[2] = {
        {to_acc(loaded[0].first()), to_acc(loaded[1].first()), to_acc(loaded[2].first()), to_acc(loaded[3].first())},
        {to_acc(loaded[0].second()), to_acc(loaded[1].second()), to_acc(loaded[2].second()),
         to_acc(loaded[3].second())}};
    const float dy[2] = {to_acc(loaded[4].first()), to_acc(loaded[4].second())};
    const float h[2] = {to_acc(loaded[5].first()), to_acc(loaded[5].second())};
    GRU_UNROLL
    for (int i = 0; i < 2; ++i) {
      if (i < existing) d[i] = cell_bwd(gates[i], h[i], d[i] + dy[i], grads[i], masks_of(i));
      dbias[0][i] += grads[i].n;
      dbias[1][i] += grads[i].r;
      dbias[2][i] += grads[i].z;
      dbias[3][i] += grads[i].q;
    }
  }

  GRU_DEVICE void differentiate(int t, GateGrads<float> (&grads)[2]) {
    differentiate(t, grads, [](int) { return NoMasks<float>(); });
  }

  // `dgates`, `h_prev`: the first elements of the step; h_prev null if not needed, else it gets the state times
  // `factor`.
  GRU_DEVICE void store_step(const PersistentBwdParams<T>& p, const BlockWork& work, int t, T* dgates, T* h_prev,
                             const GateGrads<float> (&grads)[2], const float (&factor)[2]) const {
    const int existing = t < steps ? count : 0;
    const int64_t row_of_batch = work.row0 + row;
    T* const to = dgates + row_of_batch * p.dgates[work.direction].row_stride + work.unit0 + unit;
    store_pairs<4, T>({to, to + p.H, to + 2 * p.H, to + 3 * p.H},
                      {LoadedPair<T>::rounded(grads[0].n, grads[1].n), LoadedPair<T>::rounded(grads[0].r, grads[1].r),
                       LoadedPair<T>::rounded(grads[0].z, grads[1].z), LoadedPair<T>::rounded(grads[0].q, grads[1].q)},
                      existing, p.paired);
    if (h_prev) {
      store_pair(h_prev + row_of_batch * p.h_prev[work.direction].row_stride + work.unit0 + unit,
                 to_acc(loaded[5].first()) * factor[0], to_acc(loaded[5].second()) * factor[1], existing, p.paired);
    }
  }

  GRU_DEVICE void store_step(const PersistentBwdParams<T>& p, const BlockWork& work, int t, T* dgates, T* h_prev,
                             const GateGrads<float> (&grads)[2]) const {
    store_step(p, work, t, dgates, h_prev, grads, {1.0f, 1.0f});
  }

  // Where in (D, B, H).
  GRU_DEVICE int64_t of_state(const PersistentBwdParams<T>& p, const BlockWork& work) const {
    return (static_cast<int64_t>(work.direction) * p.B + (work.row0 + row)) * p.H + work.unit0 + unit;
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
