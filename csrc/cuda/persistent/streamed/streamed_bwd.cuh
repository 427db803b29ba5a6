// The recurrence backwards for any H, all steps of a layer and both directions in one launch; see slabs.cuh for
// how blocks share out the recurrent weights R (3H, H), and exchange the gate gradients. Equations: group_bwd.cuh.
//
// Grid: as forward. A block owns kUnits hidden units: their columns of R, and dL/dh of every row of the tile. The
// operand is dr, dz and dq of all units; of neighbouring units first the slab of dr, then those of dz and dq. A step:
//   1. A slice waits for the gate gradients of the step before that it needs, and multiplies its slabs.      flags
//   2. The warps write their sums to shared memory.                                                         barrier
//   3. A thread adds those of its pair of units to dL/dh.                         barrier, between passes
//   4. It computes their gate gradients, and stores them for the others.                                    barrier
//   5. One thread raises the block's flag. What the host asks for of the step is stored.
// 2 and 3 are for the rows of a pass, pass after pass. After the last step they give dL/dh0.
#pragma once

#include "cuda/cell_masks.cuh"
#include "cuda/persistent/bwd_pair.cuh"
#include "cuda/persistent/streamed/slabs.cuh"

namespace gru_ext {
namespace device {

template <typename Name, int Units, int Rows, int Slices, int Parts, int RegisterSlabs, int WeightStages,
          int OperandStages>
using GruStreamedBwdTraits =
    StreamedTraits<Name, Units, Units, /*Gates=*/3, Rows, Slices, Parts, RegisterSlabs, WeightStages, OperandStages>;

// Begins to stream the block's columns of R, as rows of its transpose.
template <typename Traits>
GRU_DEVICE void load_bwd_slabs(Slabs<Traits>& slabs, const PersistentBwdParams<typename Traits::T>& p,
                               const BlockWork& work) {
  using T = typename Traits::T;
  const T* const weight_hh = weights_of(p, work);
  const int H = p.H;
  slabs.load_weights([&](int slab, int row, int word) {
    const int lane = thread_index() % kWarpSize, g = lane / 4, c = lane % 4;
    uint32_t words[4];
    GRU_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int column = work.unit0 + row + g + i % 2 * 8;
      const int from_unit = slab / 3 * Traits::kSlabUnits + (word + c + i / 2 * 4) * kValuesPerWord<T>;
      const int count = column < H ? clamp(H - from_unit, 0, kValuesPerWord<T>) : 0;
      const T* const first = weight_hh + (static_cast<int64_t>(slab % 3) * H + from_unit) * H + column;
      const T values[2] = {count > 0 ? load_global(first) : T{}, count > 1 ? load_global(first + H) : T{}};
      words[i] = operand_word<typename Traits::Operand>(values[0], values[1], count);
    }
    return u32x4{words[0], words[1], words[2], words[3]};
  });
}

// kMasks: whether there may be any.
template <typename Traits, bool kMasks>
GRU_DEVICE void gru_streamed_bwd(const PersistentBwdParams<typename Traits::T>& p) {
  using T = typename Traits::T;
  using Words = PairWords<typename Traits::Operand>;
  constexpr int kRows = Traits::kRows, kPassRows = Traits::kPassRows, kPasses = Traits::kPasses;
  static_assert(4 * kRows * Traits::kUnits * 4 <= Traits::kWeightOffset + Traits::kSlabBytes,
                "shared memory for the sums of the bias gradients");

  const int thread = thread_index(), H = p.H;
  const int group_of_launch = block_index() / p.streamed.blocks, block = block_index() % p.streamed.blocks;
  const int group = p.first_group + group_of_launch;
  BlockWork work = work_of(p, group, kRows, block * Traits::kUnits);
  if constexpr (kMasks) work.member = 0;  // of a layer alone: so that it takes no register
  const int steps = p.lengths ? load_global(p.lengths + work.row0) : p.T;  // the first row of a tile has the most
  const bool reverse = work.direction == 1;
  float* const sums = reinterpret_cast<float*>(shared_memory());

  Slabs<Traits> slabs(p.streamed, group, group_of_launch, work.layer(p), block);
  load_bwd_slabs(slabs, p, work);

  // A pair of units of one row of every pass.
  const int row_of_pass = Traits::row_of_thread(thread), unit = thread % Traits::kUnitPairs * 2;
  const bool works = row_of_pass < kPassRows;
  BwdPair<T> own[kPasses];
  GRU_UNROLL
  for (int pass = 0; pass < kPasses; ++pass) {
    own[pass].begin(p, work, kRows, works ? pass * kPassRows + row_of_pass : kRows, unit);
  }

  const DirectionMasks<float>& masks = p.masks[work.direction];
  // What the recurrent mask, which is that of all steps, lets through: bit 2 * pass + i is that of unit i of the pair.
  uint32_t let_through = 0;
  if constexpr (kMasks) {
    GRU_UNROLL
    for (int i = 0; i < 2 * kPasses; ++i) {
      const BwdPair<T>& pair = own[i / 2];
      const int64_t place = static_cast<int64_t>(work.row0 + pair.row) * H + work.unit0 + pair.unit + i % 2;
      let_through |= static_cast<uint32_t>(load_mask(i % 2 < pair.count ? masks.recurrent : nullptr, place)) << i;
    }
  }
  const auto factor_of = [&](int pass, int i) {  // of the state in the product
    return kMasks ? recurrent_factor(masks, (let_through >> (2 * pass + i) & 1) != 0) : 1.0f;
  };

  const auto row_of_step = [&](int s) { return s < steps ? first_row(p, reverse ? s : steps - 1 - s) : 0; };
  int64_t row = row_of_step(0), row_before = row_of_step(1);
  bool failed = false;
  GRU_NO_UNROLL
  for (int s = 0;; ++s) {
    at_step(s);
    const int t = reverse ? s : steps - 1 - s;
    const int64_t row_to_come = row_of_step(s + 2);
    if (s < steps) {
      GRU_UNROLL
      for (int pass = 0; pass < kPasses; ++pass) own[pass].load_step(p, work, {t, row}, row_before);
    }
    if (s > 0) {
      failed = !slabs.wait(s - 1, p.wait_limit);
      float d[Traits::kWeightTiles][Traits::kColumns][4] = {};
      if (!failed) slabs.multiply(d, s - 1);
      GRU_UNROLL
      for (int pass = 0; pass < kPasses; ++pass) {
        store_sums<Traits>(sums, d, pass);
        GRU_FAULT(no_block_barrier, block_barrier(), void());
        if (works) {
          const Pair<float> sum = sum_of_slices<Traits>(sums, row_of_pass, unit);
          own[pass].add({sum.first * factor_of(pass, 0), sum.second * factor_of(pass, 1)});
        }
        if (pass + 1 < kPasses) block_barrier();
      }
    }
    if (s == steps) break;

    T* const dgates_of_step = rows_of_step(p, p.dgates[work.direction], work, {t, row});
    const auto& h_prev = p.h_prev[work.direction];
    T* const h_prev_of_step = h_prev.data ? rows_of_step(p, h_prev, work, {t, row}) : nullptr;
    GRU_UNROLL
    for (int pass = 0; pass < kPasses; ++pass) {
      auto& pair = own[pass];
      GateGrads<float> grads[2] = {};
      if constexpr (kMasks) {
        const int64_t place = (row + work.row0 + pair.row) * H + work.unit0 + pair.unit;
        LoadedMasks loaded[2];
        GRU_UNROLL
        for (int i = 0; i < 2; ++i) loaded[i] = load_masks(masks, t < pair.steps && i < pair.count, place + i);
        pair.differentiate(t, grads, [&](int i) { return cell_masks(masks, loaded[i]); });
      } else {
        pair.differentiate(t, grads);
      }
      if (works) {
        const Words of_gates[3] = {Words::of(grads[0].r, grads[1].r), Words::of(grads[0].z, grads[1].z),
                                   Words::of(grads[0].q, grads[1].q)};
        const int word = (work.unit0 + unit) / kValuesPerWord<T>, slab = word / Traits::kSlabWords * 3;
        const int buffer = GRU_FAULT(one_operand_buffer, s % 2, 0);
        GRU_UNROLL
        for (int i = 0; i < 3 * Words::count; ++i) {
          const int gate = i / Words::count, w = i % Words::count;
          store_exchanged(operand_word_at<Traits>(p.streamed, group_of_launch, buffer, slab + gate,
                                                  word % Traits::kSlabWords + w, pair.row),
                          of_gates[gate].word[w]);
        }
      }
      if (pass + 1 == kPasses) {  // others wait for the flag: it goes before what they do not need
        failed = GRU_FAULT(no_barrier_before_flag, block_barrier_or(failed), failed);
        if (thread == 0 && !failed) raise_flag(flag_of_block(p.streamed, group, block), static_cast<uint32_t>(s + 1));
      }
      const auto& h = pair.loaded[5];
      pair.store_step(
          p, work, t, dgates_of_step, h_prev_of_step, RoundedGrads<T>::of(grads),
          LoadedPair<T>::rounded(to_acc(h.first()) * factor_of(pass, 0), to_acc(h.second()) * factor_of(pass, 1)));
    }
    if (failed) break;
    row = row_before;
    row_before = row_to_come;
  }
  GRU_FAULT(no_last_copy_wait, copy_async_wait(), void());

  failed = block_barrier_or(failed);
  store_bwd_results<kRows, Traits::kUnits, Traits::kThreads>(p, work, group, failed, own, sums);
}

template <typename Traits, bool kMasks>
GRU_KERNEL(Traits::kThreads, 1)
gru_streamed_bwd_kernel(const PersistentBwdParams<typename Traits::T> p) {
  if constexpr (kHasAsyncCopies) gru_streamed_bwd<Traits, kMasks>(p);
}

}  // namespace device
}  // namespace gru_ext
