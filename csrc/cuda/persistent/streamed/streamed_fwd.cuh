// The recurrence for any H, all steps of a layer and both directions in one launch; see slabs.cuh for how blocks
// share out the recurrent weights R (3H, H), and exchange h. Equations: cluster_fwd.cuh.
//
// Grid: groups of as many blocks as H needs, all of which run at the same time. A block owns kUnits hidden units: their
// rows of R, r, z and n side by side, and their state of every row of the tile, in float32 in registers. A step:
//   1. A slice waits for the part of h that it needs, and multiplies its slabs.          flags
//   2. The warps write their sums to shared memory.                                     barrier of the block
//   3. A thread adds those of its pair of units, applies the gates, and stores h'.      barrier of the block
//   4. One thread raises the block's flag. y and the gates are stored.
// 2 and 3, and what is stored, are for the rows of a pass, pass after pass; the flag is for all of them. Waits that
// take too long: as in cluster_fwd.cuh.
#pragma once

#include "cuda/cell_masks.cuh"
#include "cuda/persistent/fwd_pair.cuh"
#include "cuda/persistent/streamed/slabs.cuh"

namespace gru_ext {
namespace device {

template <typename Name, int Units, int Rows, int Slices, int Parts, int RegisterSlabs, int WeightStages,
          int OperandStages>
using GruStreamedFwdTraits = StreamedTraits<Name, Units, 3 * Units, /*Gates=*/1, Rows, Slices, Parts, RegisterSlabs,
                                            WeightStages, OperandStages>;

// Begins to stream the block's rows of R: of each of its units r, z and n.
template <typename Traits>
GRU_DEVICE void load_fwd_slabs(Slabs<Traits>& slabs, const PersistentFwdParams<typename Traits::T>& p,
                               const BlockWork& work) {
  using T = typename Traits::T;
  using Operand = typename Traits::Operand;
  constexpr int kUnits = Traits::kUnits;
  const T* const weight_hh = weights_of(p, work);
  const int H = p.H;
  slabs.load_weights([&](int slab, int row, int word) {
    const int lane = thread_index() % kWarpSize, g = lane / 4, c = lane % 4;
    uint32_t words[4];
    GRU_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int row_of_block = row + g + i % 2 * 8, unit = work.unit0 + row_of_block % kUnits;
      const int column = (slab * Traits::kSlabWords + word + c + i / 2 * 4) * kValuesPerWord<T>;
      const int count = unit < H ? clamp(H - column, 0, 2) : 0;
      const T* const first = weight_hh + (static_cast<int64_t>(row_of_block / kUnits) * H + unit) * H + column;
      if constexpr (kValuesPerWord<T> == 1) {
        words[i] = operand_word<Operand>(count > 0 ? load_global(first) : T{}, T{}, count);
      } else {
        const LoadedPair<T> pair = load_pair(first, count, p.paired);
        words[i] = operand_word<Operand>(pair.first(), pair.second(), count);
      }
    }
    return u32x4{words[0], words[1], words[2], words[3]};
  });
}

// kMasks: whether there may be any.
template <typename Traits, bool kMasks>
GRU_DEVICE void gru_streamed_fwd(const PersistentFwdParams<typename Traits::T>& p) {
  using T = typename Traits::T;
  using Words = PairWords<typename Traits::Operand>;
  constexpr int kPassRows = Traits::kPassRows, kPasses = Traits::kPasses, kUnits = Traits::kUnits;

  const int thread = thread_index(), H = p.H;
  const int group_of_launch = block_index() / p.streamed.blocks, block = block_index() % p.streamed.blocks;
  const int group = p.first_group + group_of_launch;
  BlockWork work = work_of(p, group, Traits::kRows, block * kUnits);
  if constexpr (kMasks) work.member = 0;  // of a layer alone: so that it takes no register
  const int steps = p.lengths ? load_global(p.lengths + work.row0) : p.T;  // the first row of a tile has the most
  const bool reverse = work.direction == 1;
  float* const sums = reinterpret_cast<float*>(shared_memory());

  Slabs<Traits> slabs(p.streamed, group, group_of_launch, work.layer(p), block);
  load_fwd_slabs(slabs, p, work);

  // A pair of units of one row of every pass.
  const int row_of_pass = Traits::row_of_thread(thread), unit = thread % Traits::kUnitPairs * 2;
  const bool works = row_of_pass < kPassRows;
  Pair<float> bias[3];
  GRU_UNROLL
  for (int gate = 0; gate < 3; ++gate) {
    const T* const bias_hh =
        at_offset(p.bias_hh[work.direction], (int64_t{3} * work.member + gate) * H + work.unit0 + unit);
    const int count = p.bias_hh[work.direction] ? clamp(H - work.unit0 - unit, 0, 2) : 0;
    const LoadedPair<T> values = load_pair(bias_hh, count, p.paired);
    bias[gate] = {to_acc(values.first()), to_acc(values.second())};
  }
  FwdPair<T> own[kPasses];

  const DirectionMasks<float>& masks = p.masks[work.direction];
  // What the recurrent mask, which is that of all steps, lets through: bit 2 * pass + i is that of unit i of the pair.
  uint32_t let_through = 0;
  const auto factor_of = [&](int pass, int i) {
    return kMasks ? recurrent_factor(masks, (let_through >> (2 * pass + i) & 1) != 0) : 1.0f;
  };
  const auto store_operand = [&](int pass, int s) {
    if (!works) return;
    const FwdPair<T>& pair = own[pass];
    const Words words = Words::of(pair.h[0] * factor_of(pass, 0), pair.h[1] * factor_of(pass, 1));
    const int word = (work.unit0 + unit) / kValuesPerWord<T>, slab = word / Traits::kSlabWords;
    const int buffer = GRU_FAULT(one_operand_buffer, s % 2, 0);
    GRU_UNROLL
    for (int w = 0; w < Words::count; ++w) {
      store_exchanged(
          operand_word_at<Traits>(p.streamed, group_of_launch, buffer, slab, word % Traits::kSlabWords + w, pair.row),
          words.word[w]);
    }
  };
  GRU_UNROLL
  for (int pass = 0; pass < kPasses; ++pass) {
    FwdPair<T>& pair = own[pass];
    pair.begin(p, work, pass * kPassRows + row_of_pass, unit, works);
    if constexpr (kMasks) {
      GRU_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int64_t element = static_cast<int64_t>(work.row0 + pair.row) * H + work.unit0 + unit + i;
        const int mask = load_mask(i < pair.existing(0) ? masks.recurrent : nullptr, element);
        let_through |= static_cast<uint32_t>(mask) << (2 * pass + i);
      }
    }
    store_operand(pass, 0);
  }
  block_barrier();
  if (thread == 0) raise_flag(flag_of_block(p.streamed, group, block), 1);

  // Passes whose W x is loaded before the products, as many as registers allow; the others follow as passes are done.
  constexpr int kPassesAhead = Traits::kRows < 64 ? 2 : kPasses < 4 ? 1 : 0;
  const auto row_of_step = [&](int s) { return s < steps ? first_row(p, reverse ? steps - 1 - s : s) : 0; };
  int64_t next_row = row_of_step(0);
  bool failed = false;
  GRU_NO_UNROLL
  for (int s = 0; s < steps; ++s) {
    at_step(s);
    const int t = reverse ? steps - 1 - s : s;
    const int64_t row = next_row;
    GRU_UNROLL
    for (int pass = 0; pass < kPasses && pass < kPassesAhead; ++pass) own[pass].load_step(p, work, {t, row});
    next_row = row_of_step(s + 1);
    failed = !slabs.wait(s, p.wait_limit);
    float d[Traits::kWeightTiles][Traits::kColumns][4] = {};
    if (!failed) slabs.multiply(d, s);

    T* const y = rows_of_step(p, p.y, work, {t, row}) + work.direction * H;
    T* const gates_of_step = p.gates ? p.gates + (work.layer(p) * p.N + row) * 4 * H : nullptr;
    GRU_UNROLL
    for (int pass = 0; pass < kPasses; ++pass) {
      FwdPair<T>& pair = own[pass];
      if (pass + kPassesAhead < kPasses) own[pass + kPassesAhead].load_step(p, work, {t, row});
      store_sums<Traits>(sums, d, pass);
      GRU_FAULT(no_block_barrier, block_barrier(), void());
      Gates<float> gates[2] = {};
      if (works) {
        LoadedMasks loaded[2] = {};
        if constexpr (kMasks) {
          const int64_t place = (row + work.row0 + pair.row) * H + work.unit0 + unit;
          GRU_UNROLL
          for (int i = 0; i < 2; ++i) loaded[i] = load_masks(masks, i < pair.existing(t), place + i);
        }
        Pair<float> a_h[3];
        GRU_UNROLL
        for (int gate = 0; gate < 3; ++gate) {
          const Pair<float> sum = sum_of_slices<Traits>(sums, row_of_pass, gate * kUnits + unit);
          a_h[gate] = {bias[gate].first + sum.first, bias[gate].second + sum.second};
        }
        pair.template advance<typename Traits::Math>(t, a_h, gates, [&](int i) {
          if constexpr (kMasks) {
            return cell_masks(masks, loaded[i]);
          } else {
            return NoMasks<float>();
          }
        });
      }
      // Beyond H, h' is zero, beyond a sequence's end what it was there.
      if (s + 1 < steps) store_operand(pass, s + 1);
      if (pass + 1 == kPasses) {  // others wait for the flag: it goes before what they do not need
        failed = GRU_FAULT(no_barrier_before_flag, block_barrier_or(failed), failed);
        if (thread == 0 && s + 1 < steps && !failed) {
          raise_flag(flag_of_block(p.streamed, group, block), static_cast<uint32_t>(s + 2));
        }
      }
      pair.store_step(p, work, t, y, gates_of_step, gates);
      if (pass + 1 < kPasses) block_barrier();
    }
    if (failed) break;
  }
  GRU_FAULT(no_last_copy_wait, copy_async_wait(), void());

  if (failed) store_global(p.error, 1);
  GRU_UNROLL
  for (int pass = 0; pass < kPasses; ++pass) own[pass].store_last_state(p, work);
}

template <typename Traits, bool kMasks>
GRU_KERNEL(Traits::kThreads, 1)
gru_streamed_fwd_kernel(const PersistentFwdParams<typename Traits::T> p) {
  if constexpr (kHasAsyncCopies) gru_streamed_fwd<Traits, kMasks>(p);
}

}  // namespace device
}  // namespace gru_ext
